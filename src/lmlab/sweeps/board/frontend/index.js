// The tab: which page is shown (told by the address), and what is asked of the board while it is.

import { go, isSeen, onMove, place } from './address.js';
import { Answers, inside } from './answers.js';
import { el, fill } from './dom.js';
import { Figures } from './figures.js';
import { oneRun } from './run.js';
import { oneSweep } from './sweep.js';
import { allSweeps } from './sweeps.js';

const SECONDS = 2, FIGURE_SECONDS = 8, CLOCK_SECONDS = 20;

export async function render() {
  followTheme();
  const page = el('main');
  document.body.append(page);
  const board = new Board(page);
  onMove(() => board.show());
  document.addEventListener('visibilitychange', () => board.show());
  if (!inside) {
    const style = el('link', { rel: 'stylesheet', href: './style.css' });
    document.head.append(el('meta', { name: 'viewport', content: 'width=device-width' }), el('title', {}, 'Sweeps'), style);
    document.documentElement.lang = 'en';
    await new Promise((done) => { style.onload = style.onerror = done; });
  }
  board.show();
}

/** Dark or light as TensorBoard is, or else as the reader's system; either may change. */
function followTheme() {
  const apply = (isDark) => document.body.classList.toggle('dark', isDark);
  if (!inside) {
    try {
      const around = parent.document.body;
      const look = () => apply(around.classList.contains('dark-mode'));
      new MutationObserver(look).observe(around, { attributes: true, attributeFilter: ['class'] });
      return look();
    } catch { /* somebody else's page is around it */ }
  }
  const wanted = matchMedia('(prefers-color-scheme: dark)');
  wanted.addEventListener('change', () => apply(wanted.matches));
  apply(wanted.matches);
}

/** What the page shows: {kind, name, sweep, choices}; a report is about one sweep. */
function shown() {
  const { sweep = inside && Object.keys(inside.sweep)[0], run, baseline } = place();
  if (run !== undefined) return { kind: 'run', name: run, sweep, choices: {} };
  return sweep === null ? { kind: 'sweeps', name: '', sweep, choices: {} }
    : { kind: 'sweep', name: sweep, sweep, choices: { baseline } };
}

class Board {
  constructor(page) {
    this.page = page;
    this.answers = new Answers();
    this.figures = new Figures();
    this.turn = 0; // of the loop that counts
    this.lastFigures = 0;
    new MutationObserver(() => this.figures.redraw())
      .observe(document.body, { attributes: true, attributeFilter: ['class'] });
  }

  /** Show what the address names, at once as far as it is known, and follow it. */
  show() {
    this.turn += 1;
    this.lastFigures = 0;
    this.draw();
    this.follow(this.turn);
  }

  async follow(turn) {
    while (turn === this.turn && !inside) {
      const isNew = isSeen() && await this.ask();
      const isOld = Date.now() - this.lastDraw > CLOCK_SECONDS * 1000; // it says how long ago
      if ((isNew || isOld) && turn === this.turn) this.draw();
      await new Promise((done) => setTimeout(done, SECONDS * 1000));
    }
  }

  /** Whether there is news of what is shown. */
  async ask() {
    const { kind, name, choices } = shown();
    const isNew = await this.answers.ask(kind, name, choices);
    if (kind !== 'sweep' || Date.now() - this.lastFigures < FIGURE_SECONDS * 1000) return isNew;
    if (isNew) this.draw(); // figures take longer than rows
    const isDrawn = await this.answers.ask('figures', name, choices);
    this.lastFigures = Date.now();
    return isDrawn || isNew;
  }

  draw() {
    this.lastDraw = Date.now();
    const { kind, name, sweep, choices } = shown();
    const answer = this.answers.get(kind, name, choices);
    const content = answer?.content, problem = answer?.problem || content?.problem;
    const parts = [];
    if (problem) parts.push(el('p', { class: 'problem', role: 'alert' }, problem));
    if (!answer) parts.push(el('p', { class: 'quiet' }, 'reading the runs…'));
    else if (content && !content.problem) {
      if (kind === 'run') parts.push(...oneRun(content));
      else if (kind === 'sweeps') parts.push(...allSweeps(content));
      else {
        const drawn = this.answers.get('figures', name, choices);
        parts.push(...oneSweep(content, this.figures.of(name, drawn?.content)));
      }
    }
    const above = [];
    if (kind !== 'sweeps' && !inside) above.push(el('a', go({}), '← all sweeps'));
    const of = sweep ?? content?.sweep;
    if (kind === 'run' && of !== undefined) above.push(el('a', go({ sweep: of }), inside ? '← the sweep' : 'its sweep'));
    if (above.length) parts.unshift(el('nav', {}, above.flatMap((link) => [' · ', link]).slice(1)));
    fill(this.page, parts);
    if (kind !== 'sweep') this.figures.forget();
  }
}
