// The tab: which page is shown (told by the address), and what is asked of the board while it is.

import { go, isSeen, onMove, place } from './address.js';
import { el, fill } from './dom.js';
import { Figures } from './figures.js';
import { allSweeps, oneSweep } from './pages.js';
import { oneRun } from './run.js';

const SECONDS = 2, FIGURE_SECONDS = 8, CLOCK_SECONDS = 20;

export async function render() {
  const style = el('link', { rel: 'stylesheet', href: './style.css' });
  const title = el('title', {}, 'Sweeps');
  document.head.append(el('meta', { name: 'viewport', content: 'width=device-width' }), title, style);
  document.documentElement.lang = 'en';
  followTheme();
  const page = el('main');
  document.body.append(page);
  const board = new Board(page);
  onMove(() => board.show());
  document.addEventListener('visibilitychange', () => board.show());
  await new Promise((done) => { style.onload = style.onerror = done; });
  board.show();
}

/** Dark or light as TensorBoard is, which may change while the tab is open. */
function followTheme() {
  const apply = (isDark) => document.body.classList.toggle('dark', isDark);
  try {
    const around = parent.document.body;
    const look = () => apply(around.classList.contains('dark-mode'));
    new MutationObserver(look).observe(around, { attributes: true, attributeFilter: ['class'] });
    look();
  } catch {
    apply(matchMedia('(prefers-color-scheme: dark)').matches);
  }
}

/** Where the board answers. */
function address(kind, name, baseline = '') {
  const about = baseline ? `&baseline=${encodeURIComponent(baseline)}` : '';
  return `./${kind}?name=${encodeURIComponent(name)}${about}`;
}

class Board {
  constructor(page) {
    this.page = page;
    this.answers = new Map(); // by address: {tag, content, problem}
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
    while (turn === this.turn) {
      const isNew = isSeen() && await this.ask();
      const isOld = Date.now() - this.lastDraw > CLOCK_SECONDS * 1000; // it says how long ago
      if ((isNew || isOld) && turn === this.turn) this.draw();
      await new Promise((done) => setTimeout(done, SECONDS * 1000));
    }
  }

  /** Whether there is news of what is shown. */
  async ask() {
    const { sweep, run, baseline } = place();
    if (run !== undefined) return this.fetch(address('run', run));
    if (sweep === undefined) return this.fetch(address('sweeps', ''));
    const isNew = await this.fetch(address('sweep', sweep, baseline));
    if (Date.now() - this.lastFigures > FIGURE_SECONDS * 1000) {
      if (isNew) this.draw(); // figures take longer than rows
      const isDrawn = await this.fetch(address('figures', sweep, baseline));
      this.lastFigures = Date.now();
      return isDrawn || isNew;
    }
    return isNew;
  }

  async fetch(from) {
    const before = this.answers.get(from);
    const headers = before?.tag ? { 'If-None-Match': before.tag } : {};
    let answer;
    try {
      const response = await fetch(from, { headers, cache: 'no-store' });
      if (response.status === 304) {
        if (!before.problem) return false;
        answer = { ...before, problem: '' };
      } else if (response.ok) {
        answer = { tag: response.headers.get('ETag'), content: await response.json(), problem: '' };
      } else {
        answer = { ...before, tag: null, problem: await response.text() };
      }
    } catch {
      answer = { ...before, problem: 'TensorBoard does not answer; this is how it was' };
    }
    if (before && before.problem === answer.problem && answer.problem) return false;
    this.answers.delete(from);
    this.answers.set(from, answer);
    for (const oldest of [...this.answers.keys()].slice(0, -12)) this.answers.delete(oldest);
    return true;
  }

  draw() {
    this.lastDraw = Date.now();
    const { sweep, run, baseline } = place();
    const [kind, name] = run !== undefined ? ['run', run] : sweep !== undefined ? ['sweep', sweep] : ['sweeps', ''];
    const answer = this.answers.get(address(kind, name, kind === 'sweep' ? baseline : ''));
    const content = answer?.content, problem = answer?.problem || content?.problem;
    const parts = [];
    if (problem) parts.push(el('p', { class: 'problem', role: 'alert' }, problem));
    if (!answer) parts.push(el('p', { class: 'quiet' }, 'reading the runs…'));
    else if (content && !content.problem) {
      if (kind === 'run') parts.push(...oneRun(content));
      else if (kind === 'sweeps') parts.push(...allSweeps(content));
      else {
        const drawn = this.answers.get(address('figures', name, baseline));
        parts.push(...oneSweep(content, this.figures.of(name, drawn?.content)));
      }
    }
    if (kind !== 'sweeps') parts.unshift(el('nav', {}, el('a', go({}), '← all sweeps'),
      run !== undefined && (sweep ?? content?.sweep) !== undefined
        ? [' · ', el('a', go({ sweep: sweep ?? content.sweep }), 'its sweep')] : []));
    fill(this.page, parts);
    if (kind !== 'sweep') this.figures.forget();
  }
}
