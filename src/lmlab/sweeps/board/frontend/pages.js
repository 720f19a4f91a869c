// The three pages: all sweeps, one sweep, one run. Each is made of what the board said of it.

import { change, curvesOf, go, place } from './address.js';
import { el, fold, table } from './dom.js';

const FEW = 30; // rows that are shown before somebody asks for more
const text = (number, digits = 4) => (number === null || number === undefined ? '' : number.toFixed(digits));
const count = (number) => (number === null || number === undefined ? '' : number.toLocaleString('en'));

function ago(seconds) {
  if (!seconds) return '';
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  for (const [name, size] of [['d', 86400], ['h', 3600], ['min', 60]]) {
    if (passed >= size) return `${Math.floor(passed / size)} ${name} ago`;
  }
  return passed < 10 ? 'just now' : 'in the last minute';
}

function time(seconds) {
  if (seconds === null || seconds === undefined) return '';
  const whole = Math.round(seconds);
  if (whole < 60) return `${seconds.toFixed(1)} s`;
  return whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s`
    : `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min`;
}

const chip = (status, n) => el('span', { class: `chip ${/^[a-z]+$/.test(status) ? status : ''}`, dir: 'auto' },
  n === undefined ? status : `${n} ${status}`);
const chips = (counts) => el('span', { class: 'chips' }, counts.map(([status, n]) => chip(status, n)));

export function allSweeps({ sweeps, is_cut: isCut }) {
  if (!sweeps.length) return [el('h1', {}, 'Sweeps'), el('p', { class: 'quiet' }, 'no run below the log folder yet')];
  const columns = [{ heading: 'sweep' }, { heading: 'jobs', is_number: true }, { heading: 'so far' },
    { heading: 'best run', is_number: true }, { heading: 'of' }, { heading: 'last moved' }];
  const rows = sweeps.map((one) => ({ cells: [
    el('a', { ...go({ sweep: one.sweep }), 'data-key': `sweep/${one.sweep}`, dir: 'auto' }, one.title),
    count(one.jobs), chips(one.counts), text(one.best), one.metric ?? '',
    el('span', {}, ago(one.moved), one.is_launched ? '' : ' · single runs')] }));
  const cut = isCut && el('p', { class: 'problem' }, 'there are more folders below the log folder than are looked through');
  return [el('h1', {}, 'Sweeps'), cut, ...more('sweeps', columns, rows)].filter(Boolean);
}

/** A table of the first rows, and a button for all. */
function more(name, columns, rows) {
  const isAll = place().all === name || rows.length <= FEW;
  return [table(name, columns, isAll ? rows : rows.slice(0, FEW)),
    isAll ? null : el('p', {}, `the first ${FEW} of ${rows.length}; `,
      el('button', { 'data-key': `more/${name}`, class: 'plain', onclick: () => change({ all: name }) }, 'show all'))].filter(Boolean);
}

export function oneSweep(about, figures) {
  const { jobs, leaderboard, sections } = about;
  const parts = [];
  const active = jobs.filter((job) => job.status === 'running');
  const bad = jobs.filter((job) => ['failed', 'killed', 'interrupted', 'unreadable'].includes(job.status) || job.diverged);
  if (active.length) parts.push(el('h2', {}, 'running'), ...jobTable('running', active, about));
  if (leaderboard) parts.push(el('h2', {}, 'leaderboard'), ...board(leaderboard, jobs, about));
  if (bad.length) parts.push(el('h2', {}, 'went wrong'), ...jobTable('went wrong', bad, about));
  if (about.remark) parts.push(el('p', { class: 'problem', dir: 'auto' }, about.remark));
  for (const section of sections) parts.push(el('h2', { dir: 'auto' }, section.title), ...plain(section));
  return [
    el('header', {}, el('h1', { dir: 'auto' }, about.title), chips(about.counts),
      el('span', { class: 'quiet' }, about.moved ? `last moved ${ago(about.moved)}` : 'nothing yet')),
    el('div', { class: 'columns' }, el('div', {}, parts), leaderboard && el('div', {}, drawn(figures))),
    fold('jobs', `all ${jobs.length} jobs`, !leaderboard, ...jobTable('jobs', jobs, about)),
    fold('again', 'the same in a terminal', false, commands(about.commands.map((line) => ['report', line]))),
  ];
}

function drawn(figures) {
  if (figures === null) return [el('h2', {}, 'figures'), el('p', { class: 'quiet' }, 'drawing…')];
  return [el('h2', {}, 'figures'), figures.length ? el('div', { class: 'figures' }, figures)
    : el('p', { class: 'quiet' }, 'not enough runs for a figure')];
}

function board(about, jobs, { sweep }) {
  const { sort, setting: opened } = place();
  const [by, direction] = (sort ?? '').split(':');
  const order = about.settings.map((_, i) => i);
  const sorted = about.columns.findIndex((column, i) => `${i}` === by && column.values);
  if (sorted >= 0) {
    const { values } = about.columns[sorted], sign = direction === 'down' ? -1 : 1;
    order.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === y || (x === null && y === null)) return a - b;
      if (x === null || y === null) return x === null ? 1 : -1; // nothing comes last, either way
      return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y)));
    });
  }
  const columns = [{ heading: '#', is_number: true, title: 'rank' }, ...about.columns.map((column, i) => ({
    ...column,
    sorted: i === sorted ? (direction === 'down' ? 'descending' : 'ascending') : null,
    sort: column.values && (() => change({ sort: i === sorted && direction === 'up' ? `${i}:down` : i === sorted ? undefined : `${i}:up` })),
  })), { heading: 'runs' }];
  const rows = order.map((i) => {
    const setting = about.settings[i], isOpen = String(setting) === opened;
    const runs = jobs.filter((job) => job.setting === setting);
    const button = el('button', { class: 'plain', 'data-key': `setting/${setting}`, 'aria-expanded': String(isOpen),
      'aria-label': `runs of ${about.names[i]}`,
      onclick: () => change({ setting: isOpen ? undefined : setting }) }, `${isOpen ? '▾' : '▸'} ${runs.length}`);
    return { class: i === about.best ? 'best' : '', below: isOpen && runsOf(about.names[i], runs, sweep),
      cells: [setting, ...about.columns.map((column) => column.cells[i]), button] };
  });
  return [el('p', { class: 'quiet' }, about.title), ...more('leaderboard', columns, rows), notes(about.notes)];
}

function runsOf(name, runs, sweep) {
  const curves = runs.map((job) => job.run).filter((run) => run !== null);
  const isBaseline = place().baseline === name;
  const compare = el('button', { class: 'plain', 'data-key': 'baseline', onclick: () => change({ baseline: isBaseline ? undefined : name }) },
    isBaseline ? 'compare with the best again' : 'compare the others with it');
  return [el('p', {}, el('strong', { dir: 'auto' }, name), ' · ', compare, ' · ',
    el('a', curvesOf(curves.slice(0, 30)), curves.length > 30 ? 'curves of the first 30' : 'curves in Time Series')),
  ...jobTable('runs of the setting', runs, { sweep })];
}

function jobTable(name, jobs, { sweep }) {
  const columns = [{ heading: 'run' }, { heading: 'status' }, { heading: 'reason' }, { heading: 'seed', is_number: true },
    { heading: 'step', is_number: true }, { heading: 'val loss', is_number: true, title: 'nats per token: of all of val, or the lowest so far' },
    { heading: 'time', is_number: true }];
  const hasReasons = jobs.some((job) => job.error);
  const shown = (row) => row.filter((_, i) => i !== 2 || hasReasons);
  const rows = jobs.map((job) => ({ cells: shown([
    job.run === null ? job.name : el('a', { ...go({ sweep, run: job.run }), 'data-key': `run/${name}/${job.run}`, dir: 'auto' }, job.name),
    el('span', {}, chip(job.status), job.diverged ? ' diverged' : ''), job.error ?? '', job.seed ?? '', steps(job),
    job.loss === null || job.loss === undefined ? '' : `${text(job.loss)}${job.is_final ? '' : ' so far'}`, time(job.seconds)]) }));
  return more(name, shown(columns), rows);
}

function steps({ step, max_steps: most, status }) {
  if (step === null || step === undefined) return '';
  if (status !== 'running' || !most) return count(step);
  return el('span', {}, `${count(step)} / ${count(most)} `, el('progress', { value: step, max: most, 'aria-label': 'steps' }));
}

function plain(section) {
  const rows = section.columns.length ? section.columns[0].cells.map((_, i) => ({
    class: i === section.best ? 'best' : '', cells: section.columns.map((column) => column.cells[i]) })) : [];
  return [...more(section.title, section.columns, rows), notes(section.notes),
    section.lines.length ? el('pre', { dir: 'auto' }, section.lines.join('\n')) : null].filter(Boolean);
}

const notes = (lines) => el('ul', { class: 'notes' }, lines.map((line) => el('li', { dir: 'auto' }, line)));

function commands(lines) {
  return el('dl', { class: 'commands' }, lines.map(([what, line]) => [el('dt', {}, what), el('dd', {}, el('code', {}, line),
    el('button', { class: 'plain', 'data-key': `copy/${what}`, 'aria-label': `copy: ${what}`, onclick: (event) => copy(event.currentTarget, line) }, 'copy'))]));
}

async function copy(button, line) {
  try {
    await navigator.clipboard.writeText(line);
    button.textContent = 'copied';
  } catch { // a page that is not at localhost may not: it is selected, to be copied by hand
    getSelection().selectAllChildren(button.previousSibling);
    button.textContent = 'selected';
  }
  setTimeout(() => { button.textContent = 'copy'; }, 1500);
}

export function oneRun(about) {
  const parts = [el('header', {}, el('h1', { dir: 'auto' }, about.run), chip(about.status), about.diverged ? 'diverged' : null,
    about.started ? el('span', { class: 'quiet' }, `started ${about.started}`) : null)];
  if (about.error) parts.push(el('p', { class: 'problem', dir: 'auto' }, about.error));
  if (!about.commands) return parts;
  const facts = [['step', steps(about)], ['val loss', about.loss === null ? '' : `${text(about.loss)}${about.is_final ? ', of all of val' : ', the lowest so far'}`],
    ['time', time(about.seconds)], ['parameters', count(about.parameters)]];
  parts.push(el('dl', { class: 'facts' }, facts.filter(([, value]) => value !== '').map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)))));
  parts.push(el('p', {}, el('a', curvesOf([about.run]), 'curves in Time Series')));
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
