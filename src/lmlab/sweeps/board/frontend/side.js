// A few runs or settings side by side, chosen by ticking them wherever they stand in a table.

import { change, go, place } from './address.js';
import { inside } from './answers.js';
import { el, table } from './dom.js';
import { keptBySteps } from './kept.js';
import { chip, notes } from './parts.js';

const MOST = 6;

/** What is ticked, as a list of names; that of a setting is ~ and one of its runs. */
export function chosen(text = place().chosen) {
  try {
    const list = JSON.parse(text ?? '[]');
    return Array.isArray(list) ? list.filter((word) => typeof word === 'string').slice(0, MOST) : [];
  } catch {
    return [];
  }
}

const written = (words) => (words.length ? JSON.stringify(words) : undefined);

/** A box to tick, for a run or a setting that is called so. */
export function tick(word, name) {
  const words = chosen(), isChosen = words.includes(word);
  return el('input', { type: 'checkbox', 'data-key': `tick/${word}`, 'aria-label': `side by side: ${name}`,
    checked: isChosen, disabled: !isChosen && words.length >= MOST, title: !isChosen && words.length >= MOST ? `at most ${MOST}` : null,
    onchange: () => change({ chosen: written(isChosen ? words.filter((other) => other !== word) : [...words, word]) }) });
}

/** The column of these boxes; a report, which has no board, has none. */
export const TICKS = inside ? [] : [{ heading: 'compare', title: 'tick two to six, to see them side by side' }];
export const ticks = (word, name) => (inside ? [] : [word === null ? '' : tick(word, name)]);

/** What is ticked so far, and the way to it; nothing where nothing is. */
export function tickedBar() {
  const words = chosen();
  if (!words.length || place().side !== undefined) return null;
  return el('aside', { class: 'ticked', 'aria-label': 'chosen to be seen side by side' },
    el('ul', {}, words.map((word) => el('li', {}, el('span', { class: 'cell', dir: 'auto' }, called(word)), without(words, word)))),
    words.length < 2 ? el('span', { class: 'quiet' }, 'tick another') : el('a', { ...go({ side: written(words) }), 'data-key': 'side' }, 'side by side'),
    el('button', { class: 'plain', 'data-key': 'untick', onclick: () => change({ chosen: undefined }) }, 'none'));
}

const called = (word) => (word.startsWith('~') ? `setting of ${word.slice(1)}` : word);

function without(words, word) {
  const left = words.filter((other) => other !== word), isPage = place().side !== undefined;
  return el('button', { class: 'plain', 'data-key': `without/${word}`, 'aria-label': `without ${called(word)}`,
    onclick: () => change(isPage ? { side: written(left), chosen: written(left) } : { chosen: written(left) }) }, '×');
}

export function sideBySide(about, figures, kept) {
  const { columns } = about, words = columns.map((column) => column.word);
  const heads = columns.map((column) => ({ heading: column.title }));
  const wrong = columns.filter((column) => column.problem);
  const rows = (name, first, list, isMarked = false) => (list.length ? [el('h2', {}, name), table(name, [{ heading: first }, ...heads],
    list.map(([key, cells, differs]) => (isMarked && differs ? { class: 'differs', cells: [`≠ ${key}`, ...cells] } : { cells: [key, ...cells] })))] : []);
  return [
    el('header', {}, el('h1', {}, 'side by side'), el('span', { class: 'quiet' }, `${columns.length} of at most ${MOST}; tick others in their tables`)),
    el('ul', { class: 'sides' }, columns.map((column) => el('li', {}, head(column), words.length > 1 ? without(words, column.word) : null))),
    wrong.map((column) => el('p', { class: 'problem', dir: 'auto' }, `${column.title}: ${column.problem}`)),
    el('div', { class: 'columns' }, el('div', {},
      about.keys.length ? null : [el('h2', {}, 'keys in which they differ'), el('p', {}, columns.length > 1 ? 'none' : 'there is nothing to compare with')],
      rows('keys in which they differ', 'key', about.keys), rows('figures', 'figure', about.figures), notes(about.notes)),
    el('div', {}, el('h2', {}, 'curves'), drawn(figures))),
    keptBySteps(kept, columns),
    rows('versions and machine', 'name', about.machine, true),
  ].flat();
}

/** The link to a run or to the sweep of a setting. */
function head(column) {
  if (column.run === undefined) return el('span', { dir: 'auto' }, column.title);
  const to = column.is_setting ? { sweep: column.sweep } : { sweep: column.sweep, run: column.run };
  const counts = [...new Set(column.statuses)].map((status) => [status, column.statuses.filter((other) => other === status).length]);
  return [el('a', { ...go(to), dir: 'auto', 'data-key': `to/${column.word}` }, column.title), ' ',
    counts.map(([status, n]) => chip(status, column.is_setting ? n : undefined)),
    column.n > 1 ? [' ', el('span', { class: 'quiet' }, 'shown by ', el('a', { ...go({ sweep: column.sweep, run: column.run }), dir: 'auto', 'data-key': `by/${column.word}` }, column.run))] : null];
}

export function drawn(figures) {
  if (figures === null) return el('p', { class: 'quiet' }, 'drawing…');
  return figures.length ? figures : el('p', { class: 'quiet' }, 'no curve was kept');
}
