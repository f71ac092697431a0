"use strict";
// The page of a run. All texts come from models and data sets: they only ever become text nodes, never markup.

let data = JSON.parse(document.getElementById("data").textContent);
const S = (index) => data.strings[index];
const $ = (id) => document.getElementById(id);

// --- building blocks -----------------------------------------------------------------------------------------

function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Marks that change the direction of what follows, and control characters, are shown by their code. The text stays what
// it is, also when it is copied.
const MARKS = /([\u0000-\u0008\u000b-\u001f\u007f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])/;
const code = (mark) => `U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

function text(string, options = {}) {
  const node = el(options.tag || "span", { class: `text ${options.class || ""}`.trim(), dir: "auto" });
  for (const part of String(string).split(MARKS)) {
    if (part.length === 1 && MARKS.test(part)) node.append(el("span", { class: "mark", "data-mark": code(part) }, part));
    else if (part) node.append(part);
  }
  return node;
}

// The same where there is no room for more than a line: in a picture, in a tooltip.
function line(string, most = 80) {
  const whole = Array.from(String(string).replace(/\s+/g, " ").trim());
  const cut = whole.length > most ? `${whole.slice(0, most - 1).join("")}…` : whole.join("");
  return cut.split(MARKS).map((part) => (part.length === 1 && MARKS.test(part) ? `[${code(part)}]` : part)).join("");
}

const digits = (value, places = 3) => (value === null || value === undefined ? "–" : value.toFixed(places));
const signed = (value, places = 3) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(places)}`;

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(3);
}

const plain = (value) => String(Number(value.toPrecision(4)));
const many = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;
const color = (term) => `var(--c${(data.colors[term] ?? 7) % 8})`; // one for a term, wherever it is drawn

// --- what is chosen, in the address: #PLACE&NAME=VALUE… --------------------------------------------------------
// What is as it was when the page opened is left out, so that a plain link stays short.

const DEFAULTS = {};
const chosen = {};
function choose(name, value) {
  chosen[name] = value;
  keepAddress();
}
function addressOf(place) {
  const parts = Object.keys(DEFAULTS).filter((name) => String(chosen[name]) !== String(DEFAULTS[name]));
  const said = parts.map((name) => `&${name}=${encodeURIComponent(String(chosen[name]))}`).join("");
  return `#${place}${said}`;
}
const placeOf = (hash) => hash.replace(/^#/, "").split("&")[0];
function keepAddress() {
  const place = placeOf(location.hash);
  if (addressOf(place) !== (location.hash || "#")) history.replaceState(null, "", addressOf(place));
}
function readAddress() { // whether anything is now chosen that was not
  const said = new Map(location.hash.split("&").slice(1).map((part) => part.split("=")).filter(([name]) => name in DEFAULTS));
  if (!said.size && placeOf(location.hash)) return false; // a link inside the page: what was chosen stands
  let changed = false;
  for (const name of Object.keys(DEFAULTS)) {
    let value = DEFAULTS[name];
    if (said.has(name)) {
      try { value = decodeURIComponent(said.get(name)); } catch { continue; }
      if (typeof DEFAULTS[name] === "boolean") value = value === "true";
    }
    changed ||= chosen[name] !== value;
    chosen[name] = value;
  }
  return changed;
}
