// What the settings are compared with, and where: at the end, at equal time, steps, tokens or compute,
// and on the way to a loss. The answers stand in the sections of the sweep.

import { change, place } from './address.js';
import { el } from './dom.js';

const MOST = 200; // settings to choose from; the others by a click in the leaderboard
let form = null, written = null; // it stays the same while somebody types

const field = (name, label, example) => el('label', {}, `${label} `,
  el('input', { name, 'data-key': `compare/${name}`, placeholder: example, size: 16, autocomplete: 'off', spellcheck: 'false' }));

function made() {
  return el('form', { class: 'compare', onsubmit: (event) => {
    event.preventDefault();
    const { baseline, at, to } = event.currentTarget.elements;
    change({ baseline: baseline.value || undefined, at: at.value.trim() || undefined, to: to.value.trim() || undefined });
  } },
  el('label', {}, 'compare with ', el('select', { name: 'baseline', 'data-key': 'compare/baseline' })),
  field('at', 'at', '30s, 1000steps'), field('to', 'to val/loss', '1.9'),
  el('button', { 'data-key': 'compare/go' }, 'compare'),
  el('span', { class: 'quiet' }, 'at the end in any case; s, steps, tokens or flops'));
}

/** The form, with what is chosen in it. */
export function compareForm(sweep, names) {
  form ??= made();
  const { baseline = '', at = '', to = '' } = place();
  const now = JSON.stringify([sweep, baseline, at, to, names]);
  if (now === written) return form;
  written = now;
  const options = [...new Set([...names.slice(0, MOST), ...(baseline ? [baseline] : [])])];
  form.elements.baseline.replaceChildren(el('option', { value: '' }, 'the best'),
    ...options.map((name) => el('option', { value: name }, name.length > 80 ? `${name.slice(0, 80)}…` : name)));
  form.elements.baseline.value = baseline;
  form.elements.at.value = at;
  form.elements.to.value = to;
  return form;
}
