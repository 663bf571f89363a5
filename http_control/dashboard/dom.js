// Small hands for the page. Whatever came from elsewhere is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  setAttributes(node, attributes);
  node.append(...children);
  return node;
}

export function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
  }
}

// Touches the page only where something changed: a selection, a focus and a screen reader stay where they are.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Keeps one element per key and moves only what is out of place, so that a row that has the focus keeps it.
export function keyed(parent, items, keyOf, make, update) {
  const known = parent.knownByKey ?? (parent.knownByKey = new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    if (!node) known.set(key, (node = make(item)));
    update(node, item);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
}

export async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.dataset.said = "copied";
  } catch {
    button.dataset.said = "select and copy by hand";
  }
  setTimeout(() => delete button.dataset.said, 1500);
}
