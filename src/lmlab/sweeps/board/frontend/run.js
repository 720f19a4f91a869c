// One run.

import { go } from './address.js';
import { inside } from './answers.js';
import { el, fold, table } from './dom.js';
import { keptBySteps } from './kept.js';
import { chip, commands, count, curvesLink, steps, text, time } from './parts.js';
import { drawn, tick } from './side.js';

const UNWELL = ['failed', 'killed', 'interrupted', 'unreadable'];

export function oneRun(about, figures, kept) {
  const parts = [el('header', {}, el('h1', { dir: 'auto' }, about.run), chip(about.status), about.diverged ? 'diverged' : null,
    about.started ? el('span', { class: 'quiet' }, `started ${about.started}`) : null,
    inside ? null : el('label', {}, tick(about.run, about.run), ' compare'))];
  if (about.error) parts.push(el('p', { class: 'problem', dir: 'auto' }, about.error));
  const isUnwell = UNWELL.includes(about.status);
  const log = about.log ? fold('log', 'the end of its log', isUnwell, el('pre', { class: 'log', tabindex: 0, 'data-scroll': 'log', 'data-end': true, 'aria-label': 'the end of its log' }, about.log)) : null;
  if (!about.commands) return [...parts, log, files(about.files)].filter(Boolean);
  if (isUnwell) parts.push(log);
  const facts = [['step', steps(about)], ['val loss', about.loss === null ? '' : `${text(about.loss)}${about.is_final ? ', of all of val' : ', the lowest so far'}`],
    ['time', time(about.seconds)], ['parameters', count(about.parameters)], ...relatives(about)];
  parts.push(el('dl', { class: 'facts' }, facts.filter(([, value]) => value !== '').map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)))));
  const left = [el('h2', {}, 'commands'), commands(about.commands), ...differs(about.changed)];
  const curves = inside ? [] : [el('h2', {}, 'curves'), drawn(figures)];
  const link = curvesLink([about.run], 'curves in Time Series');
  parts.push(el('div', { class: 'columns' }, el('div', {}, left), el('div', {}, curves, link && el('p', {}, link))));
  parts.push(...keptBySteps(kept, [{ run: about.run, title: about.run }]));
  if (about.sample && !kept?.columns[0].texts.sample) {
    parts.push(el('h2', {}, 'the last sample'), el('pre', { dir: 'auto', tabindex: 0, 'data-scroll': 'sample', 'aria-label': 'the last sample' }, about.sample));
  }
  parts.push(el('h2', {}, 'what it left'));
  const pairs = (name, list) => list.length && fold(name, name, false, table(name, [{ heading: 'name' }, { heading: 'value' }], list.map((cells) => ({ cells }))));
  parts.push(pairs('last figures', about.metrics), pairs('versions and machine', about.machine), files(about.files),
    about.config && fold('config', 'its whole config', false, el('pre', { tabindex: 0, 'data-scroll': 'config', 'aria-label': 'its whole config' }, about.config)), isUnwell ? null : log);
  return parts.filter(Boolean);
}

function differs({ rows, of }) {
  return [el('h2', {}, 'what differs'), el('p', { class: 'quiet', dir: 'auto' }, `from ${of}`),
    rows.length ? table('what differs', [{ heading: 'key' }, { heading: 'value' }, { heading: 'default' }],
      rows.map(([key, value, before]) => ({ cells: [key, value, before ?? ''] }))) : el('p', {}, 'nothing')];
}

function relatives({ parents, children }) {
  const link = ({ name, title, step }) => [name !== null && !inside
    ? el('a', { ...go({ run: name }), 'data-key': `run/${name}`, dir: 'auto' }, title) : el('span', { dir: 'auto' }, title),
  step === null ? '' : ` at step ${count(step)}`];
  const lines = (list) => (list.length ? el('ul', { class: 'plain' }, list.map((one) => el('li', {}, link(one)))) : '');
  return [['began from', lines(parents)], ['others that began from it', lines(children)]];
}

function files(list) {
  if (!list.length) return null;
  const size = (bytes) => (bytes === null ? 'a link' : `${count(bytes)} bytes`);
  const all = list.reduce((sum, [, bytes]) => sum + (bytes ?? 0), 0);
  return fold('files', `${list.length} files, ${(all / 1e6).toFixed(1)} MB`, false, table('files', [{ heading: 'file' }, { heading: 'size', is_number: true }],
    list.map(([name, bytes]) => ({ cells: [name, size(bytes)] }))));
}
