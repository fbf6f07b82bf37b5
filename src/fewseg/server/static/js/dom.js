/** Small helpers that make elements; every text goes in as text, never as markup. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [props] attributes; `onclick` and the like are listeners, `class` the class, and
 *   true, false, null mean present, absent, absent
 * @param {...(Node|string|null|false|undefined|Array<Node|string|null|false|undefined>)} children
 * @returns {any} the element
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value; // an attribute would break under a strict content policy
    else if (name === "value" || name === "checked" || name === "indeterminate") /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(.../** @type {any[]} */ (children.flat().filter((child) => child !== null && child !== undefined && child !== false)));
  return element;
}

/** @param {string} selector @param {ParentNode} [root] @returns {any} the element, which must exist */
export function find(selector, root = document) {
  const element = root.querySelector(selector);
  if (!element) throw new Error(`the page has no ${selector}`);
  return element;
}

/** Runs `action` once calls have stopped coming for `wait` milliseconds. @param {() => void} action @param {number} wait */
export function settled(action, wait) {
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

/** Runs `action` at most once per drawn frame. @param {() => void} action */
export function perFrame(action) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      action();
    });
  };
}

/** @param {EventTarget|null} target @returns {boolean} whether keys are text input there */
export function isTyping(target) {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return !["range", "checkbox", "radio", "color", "button"].includes(target.type);
  return target.isContentEditable || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}
