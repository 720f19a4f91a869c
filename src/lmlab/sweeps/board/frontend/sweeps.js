// All sweeps below the log folder.

import { go } from './address.js';
import { el } from './dom.js';
import { ago, chips, count, more, text, timeLeft } from './parts.js';

export function allSweeps({ sweeps, is_cut: isCut }) {
  if (!sweeps.length) return [el('h1', {}, 'Sweeps'), el('p', { class: 'quiet' }, 'no run below the log folder yet')];
  const columns = [{ heading: 'sweep' }, { heading: 'jobs', is_number: true }, { heading: 'so far' }, { heading: 'time left' },
    { heading: 'best run', is_number: true }, { heading: 'of' }, { heading: 'last moved' }];
  const rows = sweeps.map((one) => ({ cells: [
    el('a', { ...go({ sweep: one.sweep }), 'data-key': `sweep/${one.sweep}`, dir: 'auto' }, one.title),
    count(one.jobs), chips(one.counts), timeLeft(one.left), text(one.best), one.metric ?? '',
    el('span', {}, ago(one.moved), one.is_launched ? '' : ' · single runs')] }));
  const cut = isCut && el('p', { class: 'problem' }, 'there are more folders below the log folder than are looked through');
  return [el('h1', {}, 'Sweeps'), cut, ...more('sweeps', columns, rows)].filter(Boolean);
}
