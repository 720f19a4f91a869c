// A chart of curves with its switches: by what, which loss, linear or by ratio, the single seeds.
// What may be chosen stands beside the chart, in its usermeta.

import { change, note, place } from './address.js';
import { el } from './dom.js';

const NAMES = { steps: 'steps', tokens: 'tokens', seconds: 'seconds', flops: 'FLOPs', val: 'val', train: 'train', gap: 'gap' };

/** Whether a chart has something to choose. */
export const hasChoices = (spec) => Boolean(spec.usermeta?.choices);

/** What is chosen, as far as the chart has it. */
function picks({ usermeta: { choices } }) {
  const { x, loss, log = '', seeds, picked } = place();
  const own = { x: x in choices.x ? x : 'steps', y: loss in choices.y ? loss : 'val' };
  const has = (channel) => log.includes(channel) && Boolean(choices[channel][own[channel]].log);
  return { ...own, log: { x: has('x'), y: has('y') }, hasSeeds: seeds === 'all', picked };
}

/** What tells whether the chart must be drawn again. */
export const chosenKey = (spec) => JSON.stringify({ ...picks(spec), picked: null });

/** The chart as it is chosen. */
export function chosen(spec) {
  const { choices, seeds } = spec.usermeta;
  const { x, y, log, hasSeeds, picked } = picks(spec);
  const way = (channel) => (log[channel] ? 'log' : 'linear');
  spec.encoding.x = choices.x[x][way('x')];
  spec.encoding.y = choices.y[y][way('y')];
  spec.transform.find((step) => step.filter?.field === 'loss').filter.equal = y;
  const isPositive = { filter: `datum['${x}'] > 0` };
  if (log.x) spec.transform.push(isPositive);
  spec.title = { ...spec.title, text: `${choices.y[y].title} while training`, subtitle: choices.y[y].below };
  if (hasSeeds) {
    seeds.encoding.y.field = y;
    spec.layer.splice(1, 0, { ...seeds, transform: log.x ? [isPositive] : [] });
  }
  const lines = (picked ?? '').split(',').filter(Boolean).map((line) => ({ line: Number(line) }));
  if (lines.length) spec.params.find(({ name }) => name === 'picked').value = lines;
  return spec;
}

/** Remember which lines were brought out by a click in the legend. */
export function follow(view) {
  view.addDataListener('picked_store', (_, items) => {
    note({ picked: items.map(({ values }) => values[0]).join(',') || undefined });
  });
}

/** What is pressed to choose. */
export function switches(spec) {
  const { choices } = spec.usermeta;
  const { x, y, log, hasSeeds } = picks(spec);
  const flip = (channel) => ['x', 'y'].filter((one) => log[one] !== (one === channel)).join('') || undefined;
  const canLog = (channel, name) => Boolean(choices[channel][name].log);
  return el('div', { class: 'switches' },
    group('by', Object.keys(choices.x), x, (name) => ({ x: name })),
    group('loss', Object.keys(choices.y), y, (name) => ({ loss: name })),
    el('span', { role: 'group', 'aria-label': 'logarithmic' }, 'log ',
      [['x', x, 'across'], ['y', y, 'up']].map(([channel, name, words]) => canLog(channel, name)
        && press(words, log[channel], { log: flip(channel) }, `logarithmic ${words}`))),
    press('seeds', hasSeeds, { seeds: hasSeeds ? undefined : 'all' }, 'the single seeds'));
}

function group(label, names, now, choice) {
  return el('span', { role: 'group', 'aria-label': label }, `${label} `,
    names.map((name) => press(NAMES[name] ?? name, name === now, choice(name), `${label} ${NAMES[name] ?? name}`)));
}

function press(words, isOn, choice, label) {
  return el('button', { class: 'switch', 'data-key': `switch/${label}`, 'aria-label': label, 'aria-pressed': String(isOn), onclick: () => change(choice) }, words);
}
