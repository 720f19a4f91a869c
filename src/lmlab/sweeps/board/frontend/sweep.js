// One sweep. What the board said of it is put in its place.

import { change, place } from './address.js';
import { inside } from './answers.js';
import { compareForm } from './compare.js';
import { el, fold } from './dom.js';
import { isActive, jobTable, wentWrong } from './jobs.js';
import { board } from './leaderboard.js';
import { ago, chips, commands, count, more, notes, ordered, timeLeft } from './parts.js';

/** `more` are jobs that were asked for by themselves, where there are too many for one answer. */
export function oneSweep(about, figures, others) {
  const { jobs, leaderboard, sections } = about;
  const parts = [], below = [];
  const active = jobs.filter(isActive), bad = jobs.filter(wentWrong);
  if (active.length) parts.push(el('h2', {}, 'running'), ...jobTable('running', active, about));
  if (leaderboard) parts.push(el('h2', {}, 'leaderboard'), ...board(leaderboard, others?.setting?.jobs ?? jobs, about));
  if (bad.length) parts.push(el('h2', {}, 'went wrong'), ...jobTable('went wrong', bad, about));
  if (leaderboard && !inside) below.push(el('h2', {}, 'differences'), compareForm(about.sweep, leaderboard.names));
  for (const remark of about.remarks) below.push(el('p', { class: 'problem', dir: 'auto' }, remark));
  sections.forEach((section, i) => below.push(el('h2', { dir: 'auto' }, section.title), ...plain(section, i)));
  below.push(...law(about.law));
  return [
    el('header', {}, el('h1', { dir: 'auto' }, about.title), chips(about.counts),
      inside ? null : el('span', { class: 'quiet' }, [timeLeft(about.left), about.moved ? `last moved ${ago(about.moved)}` : 'nothing yet'].filter(Boolean).join(' · '))),
    about.question ? el('p', { class: 'question', dir: 'auto' }, about.question) : null,
    el('div', { class: 'columns sweep' }, el('div', {}, parts), leaderboard && el('div', {}, drawn(figures)), el('div', {}, below)),
    allJobs(about, others?.page),
    fold('again', 'the same in a terminal, and what it was made with', false, commands(about.commands), notes(about.made_with)),
  ].filter(Boolean);
}

/** A law takes its time, so it is fitted where somebody wants it. */
function law(state) {
  if (!state || inside) return [];
  return [el('h2', {}, 'scaling law'), state === 'fitting'
    ? el('p', { class: 'quiet' }, 'being fitted, and again to resampled runs for its intervals: this takes up to a minute')
    : el('p', {}, el('button', { class: 'plain', 'data-key': 'fit', onclick: () => change({ fit: 'law' }) }, 'fit a law'),
      el('span', { class: 'quiet' }, ' to the sizes and numbers of tokens of these runs'))];
}

/** All jobs, or a page of them. */
function allJobs(about, page) {
  const title = `all ${count(about.n_jobs)} jobs`;
  if (!about.is_partial) return fold('jobs', title, !about.leaderboard, ...jobTable('jobs', about.jobs, about));
  if (inside) return fold('jobs', `${count(about.jobs.length)} of ${count(about.n_jobs)} jobs`, false, ...jobTable('jobs', about.jobs, about));
  if (!page) return fold('jobs', title, false, el('p', { class: 'quiet' }, 'reading…'));
  const to = (number, words) => el('button', { class: 'plain', 'data-key': `page/${words}`, disabled: number < 1 || number > page.pages,
    onclick: () => change({ page: number, all: 'jobs' }) }, words);
  return fold('jobs', title, Boolean(place().page), el('p', {}, to(page.page - 1, '← before'),
    ` page ${page.page} of ${page.pages} `, to(page.page + 1, 'after →')), ...jobTable('jobs', page.jobs, about));
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
