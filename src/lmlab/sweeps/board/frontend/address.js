// What is shown stands in the address of the whole page, so that a link shows what its sender saw:
// #lmlab&p.lmlab.sweep=…, the form that TensorBoard has for what a plugin keeps there.

import { inside } from './answers.js';

const PREFIX = 'p.lmlab.';
const moved = new Set();
const frame = (() => {
  try {
    return parent.document && !inside ? parent : window;
  } catch {
    return window;
  }
})();

/** The choices, as they stand in the address: {sweep, run, setting, sort, x, …}. */
export function place() {
  const choices = {};
  for (const part of frame.location.hash.slice(1).split('&')) {
    const [key, value] = part.split('=');
    if (!key.startsWith(PREFIX) || value === undefined) continue;
    try {
      choices[key.slice(PREFIX.length)] = decodeURIComponent(value);
    } catch { /* half a character: no choice of ours */ }
  }
  return choices;
}

function address(choices) {
  const parts = Object.entries(choices).filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => `&${PREFIX}${key}=${encodeURIComponent(value)}`);
  return `#lmlab${parts.join('')}`;
}

/** What makes a link go to other choices: another page is a step back in the browser's history. */
export function go(choices) {
  const to = address({ chosen: place().chosen, ...choices }); // what is ticked stays so on every page
  return {
    href: `${frame.location.pathname}${frame.location.search}${to}`,
    target: '_top',
    onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      frame.history.pushState(frame.history.state, '', to);
      scrollTo(0, 0);
      moved.forEach((then) => then());
    },
  };
}

/** Write some choices of the page that is shown into the address. */
export function note(choices) {
  frame.history.replaceState(frame.history.state, '', address({ ...place(), ...choices }));
}

/** Change some choices of the page that is shown. */
export function change(choices) {
  note(choices);
  moved.forEach((then) => then());
}

export function onMove(then) {
  moved.add(then);
  const isHere = () => frame === window || frame.location.hash.startsWith('#lmlab');
  const follow = () => isHere() && then();
  for (const kind of ['popstate', 'hashchange']) frame.addEventListener(kind, follow);
  addEventListener('pagehide', () => {
    for (const kind of ['popstate', 'hashchange']) frame.removeEventListener(kind, follow);
  });
}

/** TensorBoard's curves of some runs, in a tab of the browser. */
export function curvesOf(runs) {
  const names = runs.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const filter = encodeURIComponent(`^(./)?(${names.join('|')})$`);
  return {
    href: `${frame.location.pathname}?smoothing=0&tagFilter=loss&runFilter=${filter}#timeseries`,
    target: '_blank',
    rel: 'noopener',
  };
}

/** Whether somebody may be looking: TensorBoard hides the frame of a tab that is not chosen. */
export function isSeen() {
  if (document.hidden) return false;
  try {
    return frameElement?.checkVisibility?.({ visibilityProperty: true }) ?? true;
  } catch {
    return true;
  }
}
