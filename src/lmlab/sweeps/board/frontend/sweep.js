// One sweep. What the board said of it is put in its place.

import { inside } from './answers.js';
import { el, fold } from './dom.js';
import { isActive, jobTable, wentWrong } from './jobs.js';
import { board } from './leaderboard.js';
import { ago, chips, commands, more, notes, ordered } from './parts.js';

export function oneSweep(about, figures) {
  const { jobs, leaderboard, sections } = about;
  const parts = [];
  const active = jobs.filter(isActive), bad = jobs.filter(wentWrong);
  if (active.length) parts.push(el('h2', {}, 'running'), ...jobTable('running', active, about));
  if (leaderboard) parts.push(el('h2', {}, 'leaderboard'), ...board(leaderboard, jobs, about));
  if (bad.length) parts.push(el('h2', {}, 'went wrong'), ...jobTable('went wrong', bad, about));
  if (about.remark) parts.push(el('p', { class: 'problem', dir: 'auto' }, about.remark));
  sections.forEach((section, i) => parts.push(el('h2', { dir: 'auto' }, section.title), ...plain(section, i)));
  return [
    el('header', {}, el('h1', { dir: 'auto' }, about.title), chips(about.counts),
      inside ? null : el('span', { class: 'quiet' }, about.moved ? `last moved ${ago(about.moved)}` : 'nothing yet')),
    about.question ? el('p', { class: 'question', dir: 'auto' }, about.question) : null,
    el('div', { class: 'columns' }, el('div', {}, parts), leaderboard && el('div', {}, drawn(figures))),
    fold('jobs', `all ${jobs.length} jobs`, !leaderboard, ...jobTable('jobs', jobs, about)),
    fold('again', 'the same in a terminal, and what it was made with', false, commands(about.commands), notes(about.made_with)),
  ].filter(Boolean);
}

function drawn(figures) {
  if (figures === null) return [el('h2', {}, 'figures'), el('p', { class: 'quiet' }, 'drawing…')];
  return [el('h2', {}, 'figures'), figures.length ? el('div', { class: 'figures' }, figures)
    : el('p', { class: 'quiet' }, 'not enough runs for a figure')];
}

/** A section of the report. */
function plain(section, i) {
  const { columns, order } = ordered(`sort${i}`, section.columns);
  const rows = order.map((row) => ({
    class: row === section.best ? 'best' : '', cells: columns.map((column) => column.cells[row]) }));
  return [...more(section.title, columns, rows), notes(section.notes),
    section.lines.length ? el('pre', { dir: 'auto' }, section.lines.join('\n')) : null].filter(Boolean);
}
