// Two pages: all sweeps, one sweep. Each is made of what the board said of it.

import { change, curvesOf, go, place } from './address.js';
import { el, fold } from './dom.js';
import { ago, chip, chips, commands, count, more, steps, text, time } from './parts.js';

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

function plain(section) {
  const rows = section.columns.length ? section.columns[0].cells.map((_, i) => ({
    class: i === section.best ? 'best' : '', cells: section.columns.map((column) => column.cells[i]) })) : [];
  return [...more(section.title, section.columns, rows), notes(section.notes),
    section.lines.length ? el('pre', { dir: 'auto' }, section.lines.join('\n')) : null].filter(Boolean);
}

const notes = (lines) => el('ul', { class: 'notes' }, lines.map((line) => el('li', { dir: 'auto' }, line)));
