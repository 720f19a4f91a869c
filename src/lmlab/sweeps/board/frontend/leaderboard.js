// The settings of a sweep with their seeds folded, the best first; a click shows one's runs.

import { change, place } from './address.js';
import { inside } from './answers.js';
import { el } from './dom.js';
import { jobTable } from './jobs.js';
import { curvesLink, more, notes, ordered } from './parts.js';
import { TICKS, ticks } from './side.js';

const MOST_CURVES = 30; // that a link to TensorBoard's own curves names

export function board(about, jobs, { sweep }) {
  const { setting: opened } = place();
  const { columns: sortable, order } = ordered('sort', about.columns);
  const columns = [{ heading: '#', is_number: true, title: 'rank' }, ...sortable, { heading: 'runs' }, ...TICKS];
  const rows = order.map((i) => {
    const setting = about.settings[i], isOpen = String(setting) === opened;
    const runs = jobs.filter((job) => job.setting === setting);
    const button = el('button', { class: 'plain', 'data-key': `setting/${setting}`, 'aria-expanded': String(isOpen),
      'aria-label': `${runs.length} runs of ${about.names[i]}`,
      onclick: () => change({ setting: isOpen ? undefined : setting }) }, `${isOpen ? '▾' : '▸'} ${about.n_runs[i]}`);
    return { class: i === about.best ? 'best' : '', below: isOpen && runsOf(about.names[i], runs, sweep),
      cells: [el('span', { class: 'rank' }, swatch(about.styles[i]), String(setting)),
        ...about.columns.map((column) => column.cells[i]), button,
        ...ticks(runs[0]?.run ? `~${runs[0].run}` : null, about.names[i])] };
  });
  return [el('p', { class: 'quiet' }, about.title), ...more('leaderboard', columns, rows), notes(about.notes)];
}

/** The colour that a setting has in the figures, if it has one. */
export function swatch(style) {
  if (!style) return null;
  const [colour, shape] = style;
  return el('span', { class: `swatch ${shape}`, 'data-colour': colour, style: `--colour: ${colour}`, 'aria-hidden': 'true' });
}

function runsOf(name, runs, sweep) {
  const known = runs.map((job) => job.run).filter((run) => run !== null);
  const isBaseline = place().baseline === name;
  const compare = el('button', { class: 'plain', 'data-key': 'baseline', onclick: () => change({ baseline: isBaseline ? undefined : name }) },
    isBaseline ? 'compare with the best again' : 'compare the others with it');
  const curves = curvesLink(known.slice(0, MOST_CURVES),
    known.length > MOST_CURVES ? `curves of the first ${MOST_CURVES}` : 'curves in Time Series');
  return [el('p', {}, el('strong', { dir: 'auto' }, name), inside ? null : [' · ', compare], curves ? [' · ', curves] : null),
    ...jobTable('runs of the setting', runs, { sweep })];
}
