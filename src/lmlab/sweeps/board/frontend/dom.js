// Elements, made of texts alone: nothing that a run says is ever read as HTML.

/** An element; what begins with `on` is a listener, and children are elements, texts or lists. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Put other children into the page: what has the focus, was unfolded or scrolled stays so. */
export function fill(page, children) {
  const keyed = (attribute) => [...page.querySelectorAll(`[${attribute}]`)]
    .map((node) => [node.getAttribute(attribute), node]);
  const focused = page.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const scrolled = new Map(keyed('data-scroll').map(([key, node]) => [key, [node.scrollLeft, node.scrollTop]]));
  const open = new Map(keyed('data-fold').map(([key, node]) => [key, node.open]));
  const y = scrollY;
  page.replaceChildren(...children);
  for (const [key, node] of keyed('data-fold')) if (open.has(key)) node.open = open.get(key);
  for (const [key, node] of keyed('data-scroll')) { // of a log the end is what is looked for
    [node.scrollLeft, node.scrollTop] = scrolled.get(key) ?? [0, node.hasAttribute('data-end') ? node.scrollHeight : 0];
  }
  if (focused) for (const [key, node] of keyed('data-key')) if (key === focused) node.focus({ preventScroll: true });
  scrollTo(scrollX, y);
}

export function fold(key, title, isOpen, ...children) {
  return el('details', { 'data-fold': key, open: isOpen }, el('summary', {}, title), ...children);
}

/** A table that scrolls sideways by itself. Cells are texts or elements; `rows` have `cells`, and
 *  may have a `class` or `below`: what stands under the row. */
export function table(name, columns, rows) {
  const head = el('tr', {}, columns.map((column) => el(column.heading || column.sort ? 'th' : 'td', {
    class: column.is_number ? 'number' : '', title: column.title || null, scope: column.heading || column.sort ? 'col' : null,
    'aria-sort': column.sorted || null,
  }, column.sort
    ? el('button', { 'data-key': `${name}/${column.heading}`, onclick: column.sort },
      column.heading || 'mark', { ascending: ' ▲', descending: ' ▼' }[column.sorted] ?? '')
    : column.heading)));
  const body = rows.flatMap((row) => [
    el('tr', { class: row.class || '' }, row.cells.map((cell, i) => {
      const isText = typeof cell === 'string' || typeof cell === 'number';
      return el('td', { class: columns[i].is_number ? 'number' : '',
        title: isText && String(cell).length > 60 ? cell : null },
      isText ? el('span', { class: 'cell', dir: 'auto' }, String(cell)) : cell ?? '');
    })),
    row.below ? el('tr', { class: 'below' }, el('td', { colspan: columns.length }, row.below)) : null,
  ]);
  return el('div', { class: 'scroll', 'data-scroll': name, tabindex: 0, role: 'region', 'aria-label': name },
    el('table', {}, el('thead', {}, head), el('tbody', {}, body.filter(Boolean))));
}
