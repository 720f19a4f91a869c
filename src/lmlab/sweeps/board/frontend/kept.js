// What runs wrote and drew while they were trained, one step at a time.

import { change } from './address.js';
import { el } from './dom.js';

let pictures = new Map(); // those that are shown, by place: a redrawn page loads none again

/** `kept` is what the board said of some runs at a step, null while it was not asked; `columns` are
 *  {run, title} of each. Nothing where nothing was kept. */
export function keptBySteps(kept, columns) {
  const before = pictures;
  pictures = new Map();
  if (!kept) return [];
  if (!kept.steps.length) return kept.is_whole ? [] : [el('p', { class: 'quiet' }, 'reading samples and pictures…')];
  const tags = (of) => [...new Set(kept.columns.flatMap(of))].sort();
  const texts = tags((column) => Object.keys(column.texts)), drawn = tags((column) => column.pictures.map(([tag]) => tag));
  const isMore = columns.length > 1;
  const text = (column, tag, _, i) => (tag in column.texts
    ? el('pre', { dir: 'auto', tabindex: 0, 'data-scroll': `text/${i}/${tag}`, 'aria-label': tag }, column.texts[tag]) : null);
  const drawing = (column, tag, { run, title }, i = 0) => {
    const [, version] = column.pictures.find(([other]) => other === tag) ?? [];
    return version ? picture(before, i, `./picture?${new URLSearchParams({ name: run, tag, step: kept.step, version })}`, `${tag} of ${title} at step ${kept.step}`) : null;
  };
  const beside = (tag, cell) => [el('h3', { dir: 'auto' }, tag), el('div', { class: 'beside', 'data-scroll': `beside/${tag}`, style: `--n: ${columns.length}` },
    kept.columns.map((column, i) => el('figure', {}, isMore ? el('figcaption', { dir: 'auto' }, columns[i].title) : null,
      cell(column, tag, columns[i], i) ?? el('p', { class: 'quiet' }, 'nothing at this step'))))];
  const gallery = () => el('div', { class: 'gallery' }, drawn.map((tag) => el('figure', {}, el('figcaption', { dir: 'auto' }, tag), drawing(kept.columns[0], tag, columns[0]))));
  return [
    el('h2', {}, isMore ? 'samples and pictures at the same step' : 'samples and pictures'),
    stepper(kept),
    texts.flatMap((tag) => beside(tag, text)),
    isMore ? drawn.flatMap((tag) => beside(tag, drawing)) : gallery(),
  ].flat();
}

function picture(before, column, address, words) {
  const place = `${column} ${address}`; // a setting and its run may show the same one
  const node = before.get(place) ?? el('a', { href: address, target: '_blank', rel: 'noopener', title: 'in its own size' },
    el('img', { src: address, alt: words, loading: 'lazy' }));
  pictures.set(place, node);
  return node;
}

/** The steps at which there is anything, to be gone through. */
function stepper({ steps, step }) {
  const at = steps.indexOf(step), shown = el('output', { for: 'step' }, `step ${step.toLocaleString('en')}`);
  const to = (i) => change({ step: i === steps.length - 1 ? undefined : steps[i] });
  const button = (name, i, sign) => el('button', { class: 'plain', 'data-key': `step/${name}`, 'aria-label': name,
    disabled: steps[i] === undefined, onclick: () => to(i) }, sign);
  return el('p', { class: 'stepper' }, button('step before', at - 1, '◀'),
    el('input', { type: 'range', id: 'step', 'data-key': 'step', min: 0, max: steps.length - 1, value: Math.max(at, 0), 'aria-label': 'step',
      'aria-valuetext': `step ${step}`, disabled: steps.length < 2,
      oninput: (event) => { shown.textContent = `step ${steps[event.target.value].toLocaleString('en')}`; },
      onchange: (event) => to(Number(event.target.value)) }),
    button('next step', at + 1, '▶'), shown,
    el('span', { class: 'quiet' }, at < 0 ? 'there is nothing at this step' : at === steps.length - 1 ? 'the last' : ''));
}
