// The tab: which page is shown (told by the address), and what is asked of the board while it is.

import { go, isSeen, onMove, place } from './address.js';
import { Answers, inside } from './answers.js';
import { el, fill } from './dom.js';
import { Figures } from './figures.js';
import { oneRun } from './run.js';
import { sideBySide, tickedBar } from './side.js';
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

/** What the page shows: {kind, sweep}, and what is to be asked for it, as [kind, name, choices]: for
 *  the `page` itself, its `figures`, and what runs `kept` by step. A report is about one sweep. */
function shown() {
  const { sweep = inside && Object.keys(inside.sweep)[0], run, side, step, baseline, at, to, fit } = place();
  const ofRuns = (kind, name, list) => ({ kind, sweep, page: [kind, name, {}],
    ...(inside ? {} : { figures: ['curves', list, {}], kept: ['kept', list, { step }] }) });
  if (run !== undefined) return ofRuns('run', run, JSON.stringify([run]));
  if (side !== undefined) return ofRuns('side', side, side);
  if (sweep === null) return { kind: 'sweeps', sweep, page: ['sweeps', '', {}] };
  const asked = { baseline, at, to, fit };
  return { kind: 'sweep', sweep, page: ['sweep', sweep, asked], figures: ['figures', sweep, asked] };
}

class Board {
  constructor(page) {
    this.page = page;
    this.answers = new Answers();
    this.figures = new Figures();
    this.turn = 0; // of the loop that counts
    this.lastFigures = 0;
    for (const kind of ['pointerdown', 'pointerup', 'pointercancel']) {
      document.addEventListener(kind, () => { this.isPressed = kind === 'pointerdown'; });
    }
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
    let isDue = false;
    while (turn === this.turn && !inside) {
      const isNew = isSeen() && await this.ask(turn);
      const isOld = Date.now() - this.lastDraw > CLOCK_SECONDS * 1000; // it says how long ago
      isDue ||= isNew || isOld;
      if (isDue && turn === this.turn && !this.isHeld()) {
        this.draw();
        isDue = false;
      }
      await new Promise((done) => setTimeout(done, SECONDS * 1000));
    }
  }

  /** Whether somebody drags something, or has selected a text a moment ago: that would be lost. */
  isHeld() {
    return this.isPressed || (!getSelection().isCollapsed && Date.now() - this.lastDraw < CLOCK_SECONDS * 1000);
  }

  /** Whether there is news of what is shown. */
  async ask(turn) {
    const { page, figures, kept } = shown();
    let isNew = await this.answers.ask(...page);
    if (page[0] === 'sweep') {
      for (const asked of Object.values(this.asksOfJobs(this.answers.get(...page)?.content))) {
        if (await this.answers.ask(...asked)) isNew = true;
      }
    }
    if (kept && await this.answers.ask(...kept)) isNew = true;
    if (!figures || Date.now() - this.lastFigures < FIGURE_SECONDS * 1000) return isNew;
    if (isNew && turn === this.turn && !this.isHeld()) this.draw(); // figures take longer than rows
    const isDrawn = await this.answers.ask(...figures);
    if (turn === this.turn) this.lastFigures = Date.now();
    return isDrawn || isNew;
  }

  draw() {
    this.lastDraw = Date.now();
    const { kind, sweep, page, figures, kept } = shown();
    const answer = this.answers.get(...page) ?? this.before(page);
    const content = answer?.content, problem = answer?.problem || content?.problem;
    for (const asked of [page, figures]) {
      const known = asked && this.answers.get(...asked);
      if (known?.content) this.last = { ...this.last, [asked[0]]: { name: asked[1], answer: known } };
    }
    const parts = [];
    if (problem) parts.push(el('p', { class: 'problem', role: 'alert' }, problem));
    if (!answer) parts.push(el('p', { class: 'quiet' }, 'reading the runs…'));
    else if (content && !content.problem) {
      const specs = figures && (this.answers.get(...figures) ?? this.before(figures))?.content;
      const drawn = figures ? this.figures.of(figures[1], specs) : [];
      if (kind === 'run') parts.push(...oneRun(content, drawn, this.kept(kept)));
      else if (kind === 'side') parts.push(...sideBySide(content, drawn, this.kept(kept)));
      else if (kind === 'sweeps') parts.push(...allSweeps(content));
      else parts.push(...oneSweep(content, drawn, this.others(content)));
    }
    const above = [];
    if (kind !== 'sweeps' && !inside) above.push(el('a', go({}), '← all sweeps'));
    const of = sweep ?? content?.sweep;
    if (kind === 'run' && of !== undefined) above.push(el('a', go({ sweep: of }), inside ? '← the sweep' : 'its sweep'));
    if (above.length) parts.unshift(el('nav', {}, above.flatMap((link) => [' · ', link]).slice(1)));
    fill(this.page, [...parts, tickedBar()].filter(Boolean));
    if (kind === 'sweeps') this.figures.forget();
  }

  /** What was answered before something else was chosen of the same: it stays until there is news. */
  before([kind, name]) {
    return this.last?.[kind]?.name === name ? this.last[kind].answer : undefined;
  }

  /** Jobs that are asked for by themselves: [kind, name, choices] of a page, and of a setting. */
  asksOfJobs(about) {
    if (!about?.is_partial || inside) return {};
    const { page, setting } = place();
    return { page: ['jobs', about.sweep, { page: page ?? '1' }],
      ...(setting === undefined ? {} : { setting: ['jobs', about.sweep, { setting }] }) };
  }

  others(about) {
    const asks = Object.entries(this.asksOfJobs(about));
    return Object.fromEntries(asks.map(([what, asked]) => [what, this.answers.get(...asked)?.content]));
  }

  /** What runs kept at the step that is chosen; until it is there, what is known of another. */
  kept(asked) {
    const content = asked && this.answers.get(...asked)?.content;
    if (content) this.lastKept = { name: asked[1], content };
    return content ?? (asked?.[1] === this.lastKept?.name ? this.lastKept?.content : null) ?? null;
  }
}
