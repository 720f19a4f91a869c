// What the board says: asked of it while a page is looked at, or written into a report that is read
// without a board.

const kept = document.getElementById('answers');

/** By kind and name, what a report that stands by itself has inside; null in TensorBoard. */
export const inside = kept && JSON.parse(kept.textContent);

const MOST = 12; // answers that are remembered

/** Where the board answers; `choices` are those that change what it says. */
function address(kind, name, choices) {
  const query = { name, ...choices };
  const parts = Object.keys(query).filter((key) => query[key]).map((key) => `${key}=${encodeURIComponent(query[key])}`);
  return `./${kind}?${parts.join('&')}`;
}

export class Answers {
  constructor() {
    this.known = new Map(); // by address: {tag, content, problem}
  }

  get(kind, name, choices) {
    if (!inside) return this.known.get(address(kind, name, choices));
    const content = Object.hasOwn(inside[kind] ?? {}, name) && inside[kind][name];
    return content ? { content } : { problem: 'this is not in the report' };
  }

  /** Whether there is news. */
  async ask(kind, name, choices) {
    if (inside) return false;
    const from = address(kind, name, choices), before = this.known.get(from);
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
    this.known.delete(from);
    this.known.set(from, answer);
    for (const oldest of [...this.known.keys()].slice(0, -MOST)) this.known.delete(oldest);
    return true;
  }
}
