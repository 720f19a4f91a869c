// Figures: Vega-Lite's, drawn by what the board sends with them, in the colours of the page.

import { chosen, chosenKey, follow, hasChoices, switches } from './curves.js';
import { el } from './dom.js';

let drawing = null; // the script, once it was asked for

function vega() {
  drawing ??= new Promise((done, failed) => {
    if (window.vegaEmbed) return void done(window.vegaEmbed); // a report has it inside
    document.head.append(el('script', { src: './vega.js', onload: () => done(window.vegaEmbed), onerror: failed }));
  });
  return drawing;
}

export class Figures {
  constructor() {
    this.forget();
  }

  /** Let go of all: a view that nobody sees would be kept in memory. */
  forget() {
    for (const one of this.drawn?.values() ?? []) one.view?.finalize();
    this.drawn = new Map(); // by name: {box, text, view}
    this.sweep = null;
  }

  /** A box for each figure of a sweep; a figure that has not changed stays as it is. */
  of(sweep, specs) {
    if (sweep !== this.sweep) this.forget();
    this.sweep = sweep;
    if (!specs) return null;
    for (const [name, one] of this.drawn) {
      if (!(name in specs)) {
        one.view?.finalize();
        this.drawn.delete(name);
      }
    }
    return Object.entries(specs).map(([name, spec]) => {
      const text = JSON.stringify(spec), choices = hasChoices(spec) ? chosenKey(spec) : '';
      let one = this.drawn.get(name);
      if (!one) this.drawn.set(name, one = { box: el('div', { class: 'figure', 'data-scroll': `figure/${name}`, tabindex: 0, role: 'group', 'aria-label': name }, el('div')) });
      if (one.text !== text || one.choices !== choices) {
        Object.assign(one, { text, choices });
        this.draw(one);
      }
      return choices ? el('div', {}, switches(spec), one.box) : one.box;
    });
  }

  redraw() {
    for (const one of this.drawn.values()) this.draw(one);
  }

  async draw(one) {
    const turn = one.turn = (one.turn ?? 0) + 1;
    try {
      const embed = await vega(); // ast: what a key is called is never run as code
      if (turn !== one.turn) return;
      const target = el('div');
      const spec = JSON.parse(one.text);
      const shown = coloured(one.choices ? chosen(spec) : spec);
      const result = await embed(target, shown, { actions: false, renderer: 'svg', ast: true });
      if (turn !== one.turn) return void result.view.finalize();
      one.view?.finalize();
      one.view = result.view;
      if (one.choices) follow(one.view);
      one.box.replaceChildren(target);
    } catch (error) {
      one.box.replaceChildren(el('p', { class: 'problem' }, `this figure cannot be drawn: ${error?.message ?? 'no script'}`));
    }
  }
}

/** A figure without its white ground; on a dark page ink is light. */
function coloured(spec) {
  const isDark = document.body.classList.contains('dark');
  spec.config = { ...spec.config, background: null };
  if (!isDark) return spec;
  const light = { '#222222': '#eeeeee', '#666666': '#b5b5b5', '#e4e4e4': '#4a4a4a', black: '#eeeeee', '#000000': '#eeeeee', white: '#303030' };
  const walk = (node) => {
    for (const [key, value] of Object.entries(node)) {
      if (key === 'ink') continue; // of a text on something coloured, which stays as it is
      if (typeof value === 'string' && value in light) node[key] = light[value];
      else if (value && typeof value === 'object') walk(value);
    }
  };
  walk(spec);
  const { config } = spec, ink = '#eeeeee';
  config.title = { color: ink, ...config.title };
  for (const part of ['axis', 'legend', 'header']) config[part] = { labelColor: ink, titleColor: ink, ...config[part] };
  return spec;
}
