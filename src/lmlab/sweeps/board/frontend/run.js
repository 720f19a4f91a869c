// One run.

import { el, fold, table } from './dom.js';
import { chip, commands, count, curvesLink, steps, text, time } from './parts.js';

export function oneRun(about) {
  const parts = [el('header', {}, el('h1', { dir: 'auto' }, about.run), chip(about.status), about.diverged ? 'diverged' : null,
    about.started ? el('span', { class: 'quiet' }, `started ${about.started}`) : null)];
  if (about.error) parts.push(el('p', { class: 'problem', dir: 'auto' }, about.error));
  if (!about.commands) return parts;
  const facts = [['step', steps(about)], ['val loss', about.loss === null ? '' : `${text(about.loss)}${about.is_final ? ', of all of val' : ', the lowest so far'}`],
    ['time', time(about.seconds)], ['parameters', count(about.parameters)]];
  parts.push(el('dl', { class: 'facts' }, facts.filter(([, value]) => value !== '').map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)))));
  const curves = curvesLink([about.run], 'curves in Time Series');
  if (curves) parts.push(el('p', {}, curves));
  const { rows, of } = about.changed;
  parts.push(el('h2', {}, 'what differs'), el('p', { class: 'quiet', dir: 'auto' }, `from ${of}`));
  if (rows.length) {
    parts.push(table('what differs', [{ heading: 'key' }, { heading: 'value' }, { heading: 'default' }],
      rows.map(([key, value, before]) => ({ cells: [key, value, before ?? ''] }))));
  } else parts.push(el('p', {}, 'nothing'));
  if (about.sample) parts.push(el('h2', {}, 'sample'), el('pre', { dir: 'auto', tabindex: 0 }, about.sample));
  parts.push(el('h2', {}, 'go on'), commands(about.commands));
  const pairs = (name, list) => list.length && fold(name, name, false, table(name, [{ heading: 'name' }, { heading: 'value' }], list.map((cells) => ({ cells }))));
  parts.push(pairs('last figures', about.metrics), pairs('versions and machine', about.machine),
    about.log && fold('log', 'the end of its log', about.status === 'failed', el('pre', { tabindex: 0 }, about.log)));
  return parts.filter(Boolean);
}
