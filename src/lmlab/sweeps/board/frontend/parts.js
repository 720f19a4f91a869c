// What several pages have: figures as they are written, status, tables, commands to copy.

import { change, curvesOf, place } from './address.js';
import { inside } from './answers.js';
import { el, table } from './dom.js';

const FEW = 30; // rows that are shown before somebody asks for more
export const text = (number, digits = 4) => (number === null || number === undefined ? '' : number.toFixed(digits));
export const count = (number) => (number === null || number === undefined ? '' : number.toLocaleString('en'));

export function ago(seconds) {
  if (!seconds) return '';
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  for (const [name, size] of [['d', 86400], ['h', 3600], ['min', 60]]) {
    if (passed >= size) return `${Math.floor(passed / size)} ${name} ago`;
  }
  return passed < 10 ? 'just now' : 'in the last minute';
}

export function time(seconds) {
  if (seconds === null || seconds === undefined) return '';
  const whole = Math.round(seconds);
  if (whole < 60) return `${seconds.toFixed(1)} s`;
  return whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s`
    : `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min`;
}

/** `about 12 min left`, of [seconds, whether it is only the least]. */
export const timeLeft = (left) => (left?.[0] ? `${left[1] ? 'at least' : 'about'} ${time(left[0])} left` : '');

export const chip = (status, n) => el('span', { class: `chip ${/^[a-z]+$/.test(status) ? status : ''}`, dir: 'auto' },
  n === undefined ? status : `${n} ${status}`);
export const chips = (counts) => el('span', { class: 'chips' }, counts.map(([status, n]) => chip(status, n)));

/** A table of the first rows, and a button for all. */
export function more(name, columns, rows) {
  const isAll = place().all === name || rows.length <= FEW;
  return [table(name, columns, isAll ? rows : rows.slice(0, FEW)),
    isAll ? null : el('p', {}, `the first ${FEW} of ${rows.length}; `,
      el('button', { 'data-key': `more/${name}`, class: 'plain', onclick: () => change({ all: name }) }, 'show all'))].filter(Boolean);
}

/** Columns whose headings sort the rows, and the order that is chosen; `key` has it in the address. */
export function ordered(key, columns) {
  const [by, direction] = (place()[key] ?? '').split(':');
  const order = (columns[0]?.cells ?? []).map((_, i) => i);
  const sorted = columns.findIndex((column, i) => `${i}` === by && column.values);
  if (sorted >= 0) {
    const values = columns[sorted].values.map((value) => (Array.isArray(value) ? value[0] : value));
    const sign = direction === 'down' ? -1 : 1;
    order.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === y || (x === null && y === null)) return a - b;
      if (x === null || y === null) return x === null ? 1 : -1; // nothing comes last, either way
      return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y)));
    });
  }
  const next = (i) => (i === sorted && direction === 'up' ? `${i}:down` : i === sorted ? undefined : `${i}:up`);
  return { order, columns: columns.map((column, i) => ({
    ...column,
    sorted: i === sorted ? (direction === 'down' ? 'descending' : 'ascending') : null,
    sort: column.values && (() => change({ [key]: next(i) })),
  })) };
}

export const notes = (lines) => el('ul', { class: 'notes' }, lines.map((line) => el('li', { dir: 'auto' }, line)));

/** A link to TensorBoard's own curves of some runs; none in a report, which has no TensorBoard. */
export const curvesLink = (runs, words) => (inside || !runs.length ? null : el('a', curvesOf(runs), words));

export function steps({ step, max_steps: most, status, rate }) {
  if (step === null || step === undefined) return '';
  if (status !== 'running' || !most) return count(step);
  return el('span', {}, `${count(step)} / ${count(most)} `, el('progress', { value: step, max: most, 'aria-label': 'steps' }),
    rate ? ` ${rate.toFixed(rate < 10 ? 1 : 0)}/s` : '');
}

export function commands(lines) {
  return el('dl', { class: 'commands' }, lines.map(([what, line]) => [el('dt', {}, what), el('dd', {}, el('code', {}, line),
    el('button', { class: 'plain', 'data-key': `copy/${what}`, 'aria-label': `copy: ${what}`, onclick: (event) => copy(event.currentTarget, line) }, 'copy'))]));
}

async function copy(button, line) {
  try {
    await navigator.clipboard.writeText(line);
    button.textContent = 'copied';
  } catch { // a page that is not at localhost may not, nor one in a frame: then as one does by hand
    getSelection().selectAllChildren(button.previousSibling);
    button.textContent = document.execCommand('copy') ? 'copied' : 'selected';
  }
  setTimeout(() => { button.textContent = 'copy'; }, 1500);
}
