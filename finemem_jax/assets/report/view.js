"use strict";
// The page of a run. All texts come from models and data sets: they only ever become text nodes, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
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

// Marks that change the direction of what follows, and control characters, are shown by their code. The text stays what
// it is, also when it is copied.
const MARKS = /([\u0000-\u0008\u000b-\u001f\u007f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])/;

function text(string, options = {}) {
  const node = el(options.tag || "span", { class: `text ${options.class || ""}`.trim(), dir: "auto" });
  for (const part of String(string).split(MARKS)) {
    if (part.length === 1 && MARKS.test(part)) {
      const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      node.append(el("span", { class: "mark", "data-mark": `U+${code}` }, part));
    } else if (part) node.append(part);
  }
  return node;
}

const digits = (value, places = 3) => (value === null || value === undefined ? "–" : value.toFixed(places));

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(3);
}

const plain = (value) => String(Number(value.toPrecision(4)));

// --- head and table ------------------------------------------------------------------------------------------

$("name").append(text(data.name));
$("verdict").textContent = data.verdict;
for (const [label, value] of data.facts) $("facts").append(el("div", {}, el("dt", {}, label), el("dd", {}, text(value))));
for (const note of data.notes) $("notes").append(el("p", { class: "note" }, note));
$("config-text").append(text(JSON.stringify(data.config, null, 1)));

(function table() {
  if (!data.table.rows.length) return $("table").replaceWith("No evaluation yet.");
  const head = el("tr", {}, el("th", { scope: "col" }, ""), ...data.table.columns.map((c) => el("th", { scope: "col" }, c)));
  let last = "";
  const rows = data.table.rows.map((row) => {
    const divide = row.when !== last && last ? "divide" : "";
    last = row.when;
    const cells = row.values.map((value, i) => el("td", {}, digits(value, data.table.digits[i])));
    return el("tr", { class: `${row.when} ${divide}` }, el("th", { scope: "row" }, text(row.name)), ...cells);
  });
  $("table").append(el("thead", {}, head), el("tbody", {}, ...rows));
})();

// --- charts --------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, content) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (content !== undefined) node.textContent = content;
  return node;
}

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(value);
  return found;
}

function chart(spec) {
  const W = 420, H = 210, L = 46, R = 14, T = 10, B = 24;
  const all = spec.series.flatMap((s) => s.y.filter((v) => v !== null));
  const xs = spec.series.flatMap((s) => s.x);
  if (!all.length) return null;
  let [low, high] = spec.range || [Math.min(...all), Math.max(...all)];
  if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
  const first = Math.min(...xs), last = Math.max(...xs, first + 1);
  const X = (x) => L + ((x - first) / (last - first)) * (W - L - R);
  const Y = (y) => T + (1 - (y - low) / (high - low)) * (H - T - B);
  const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": spec.title });
  for (const y of ticks(low, high, 4)) {
    svg.append(shape("line", { class: "grid", x1: L, x2: W - R, y1: Y(y), y2: Y(y) }));
    svg.append(shape("text", { x: L - 6, y: Y(y) + 4, "text-anchor": "end" }, plain(Math.abs(y) < (high - low) * 1e-6 ? 0 : y)));
  }
  for (const x of ticks(first, last, Math.min(5, last - first))) {
    if (Number.isInteger(x)) svg.append(shape("text", { x: X(x), y: H - 6, "text-anchor": "middle" }, x.toLocaleString("en")));
  }
  const legend = el("ul", { class: "legend" });
  const readings = [];
  spec.series.forEach((series, i) => {
    const color = `var(--c${i % 8})`;
    let path = "", pen = "M";
    series.y.forEach((y, k) => {
      if (y === null) return void (pen = "M");
      path += `${pen}${X(series.x[k]).toFixed(1)},${Y(y).toFixed(1)}`;
      pen = "L";
    });
    const line = shape("path", { class: "series", d: path, stroke: color });
    if (series.dash) line.setAttribute("stroke-dasharray", "2 4");
    svg.append(line);
    if (series.x.length <= 12 && !series.dash) {
      series.y.forEach((y, k) => y !== null && svg.append(shape("circle", { cx: X(series.x[k]), cy: Y(y), r: 2.6, fill: color })));
    }
    const reading = el("b", {}, short(series.y.at(-1)));
    readings.push([series, reading]);
    legend.append(el("li", { style: `--s:${color}`, class: series.dash ? "dash" : "" }, text(series.name), " ", reading));
  });
  const cursor = shape("line", { class: "cursor", y1: T, y2: H - B, visibility: "hidden" });
  const label = shape("text", { y: T + 8, visibility: "hidden" });
  svg.append(cursor, label);
  const read = (x) => {
    const near = xs.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a));
    for (const [series, reading] of readings) {
      const k = series.x.reduce((best, value, i) => (value <= near ? i : best), 0);
      reading.textContent = short(series.y[k]);
    }
    for (const [name, value] of [["x1", X(near)], ["x2", X(near)]]) cursor.setAttribute(name, value);
    label.setAttribute("x", X(near) + (near > (first + last) / 2 ? -5 : 5));
    label.setAttribute("text-anchor", near > (first + last) / 2 ? "end" : "start");
    label.textContent = `step ${near}`;
    for (const node of [cursor, label]) node.setAttribute("visibility", "visible");
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    read(first + ((((event.clientX - box.left) / box.width) * W - L) / (W - L - R)) * (last - first));
  });
  svg.addEventListener("pointerleave", () => {
    for (const node of [cursor, label]) node.setAttribute("visibility", "hidden");
    for (const [series, reading] of readings) reading.textContent = short(series.y.at(-1));
  });
  return el("figure", {}, el("figcaption", {}, spec.title, spec.note ? el("small", {}, spec.note) : null), svg, legend, numbers(spec));
}

function numbers(spec) {
  const box = el("div", { tabindex: "0", role: "region", "aria-label": `Numbers of ${spec.title}` });
  const fill = () => {
    if (box.firstChild) return;
    const steps = [...new Set(spec.series.flatMap((s) => s.x))].sort((a, b) => a - b);
    const columns = spec.series.map((s) => new Map(s.x.map((x, i) => [x, s.y[i]])));
    const head = el("tr", {}, el("th", {}, "step"), ...spec.series.map((s) => el("th", { scope: "col" }, text(s.name))));
    const rows = steps.map((x) => el("tr", {}, el("th", { scope: "row" }, String(x)), ...columns.map((c) => el("td", {}, c.has(x) ? String(c.get(x) ?? "–") : ""))));
    box.append(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
  };
  return el("details", { class: "numbers", ontoggle: fill }, el("summary", {}, "numbers"), box);
}

for (const spec of data.charts) {
  const figure = chart(spec);
  if (figure && !spec.more) $("charts").append(figure);
}
if (!$("charts").firstChild) $("charts").append(el("p", { class: "note" }, "No training step was logged."));
$("more").addEventListener("toggle", () => {
  const box = $("more").querySelector(".charts");
  if (!box.firstChild) box.append(...data.charts.filter((spec) => spec.more).map(chart).filter(Boolean));
});
$("more").hidden = !data.charts.some((spec) => spec.more);

(function phases() {
  const most = Math.max(...data.phases.map((p) => p.seconds));
  for (const phase of data.phases) {
    const bar = el("i", { style: `width:${(100 * phase.seconds) / most}%` });
    $("phases").append(el("span", {}, phase.name), el("span", {}, bar), el("span", {}, `${short(phase.seconds)} s a step, ${(100 * phase.share).toFixed(0)} %`));
  }
  if (!data.phases.length) $("phases").append(el("p", { class: "note" }, "No time was logged."));
})();

// --- the episodes: reading the compact records ----------------------------------------------------------------
// Order of the fields: reporting/report.py, `compact_…`.

const groups = data.groups.map((g, index) => ({
  index, where: g[0], name: S(g[1]), source: S(g[2]), chunks: g[3],
  columns: g[4].map((c) => ({ label: S(c[0]), steps: c[1], answers: c[2], rewards: c[3], total: c[4], advantage: c[5] })),
}));
const readStep = (s) => ({ raw: S(s[0]), cut: s[1], operations: s[2], removed: s[3], written: s[4], tokens: s[5] });
const readAnswer = (a) => ({
  step: a[0], question: S(a[1]), kind: S(a[2]), gold: a[3].map(S), answer: S(a[4]), score: a[5], failure: S(a[6]),
  retrieved: a[7].map((r) => ({ id: S(r[0]), step: r[1], text: S(r[2]), bm25: r[3] })),
});
const isWrong = (score) => score !== null && score < 0.5;
const whereName = (where) => (where === null ? "held-out" : `training step ${where}`);

// --- filters -------------------------------------------------------------------------------------------------

const filter = { where: "", policy: "", source: "", answers: "", failure: "", search: "", only: true };
const heldOut = groups.filter((g) => g.where === null);
const labels = [...new Set(heldOut.flatMap((g) => g.columns.map((c) => c.label)))];
const failures = [...new Set(data.groups.flatMap((g) => g[4].flatMap((c) => c[2].map((a) => a[6]))))].map(S).filter(Boolean).sort();
if (labels.length) filter.policy = labels.find((label) => label.startsWith("after")) || labels[0];

function choice(name, title, options) {
  const select = el("select", { name, onchange: () => { filter[name] = select.value; refresh(); } },
    ...options.map(([value, label]) => el("option", { value, selected: filter[name] === value }, label)));
  return el("label", {}, title, select);
}
(function controls() {
  const sources = [...new Set(groups.map((g) => g.source))].sort();
  const search = el("input", { type: "search", id: "search", name: "search", oninput: () => { filter.search = search.value.toLowerCase(); refresh(); } });
  const only = el("input", { type: "checkbox", name: "only", checked: true, onchange: () => { filter.only = only.checked; openHash(null, false); } });
  $("filters").append(
    choice("where", "From", [["", "all"], ["held-out", "held-out"], ["training", "training"]]),
    choice("policy", "Held-out answers of", [["", "anyone"], ...labels.map((l) => [l, l])]),
    choice("answers", "Answers", [["", "all"], ["wrong", "wrong"], ["right", "right"], ["missing", "missing"]]),
    choice("failure", "Cause of failure", [["", "any"], ...failures.map((f) => [f, f])]),
    choice("source", "Source", [["", "all"], ...sources.map((s) => [s, s])]),
    el("label", {}, "Search", search),
    el("label", { class: "check" }, only, "hide other questions"),
  );
  $("filters").addEventListener("submit", (event) => event.preventDefault());
})();

function matchesAnswer(a) { // a compact answer to a final question
  if (filter.answers === "wrong" && !isWrong(a[5])) return false;
  if (filter.answers === "right" && (a[5] === null || isWrong(a[5]))) return false;
  if (filter.answers === "missing" && a[5] !== null) return false;
  return !filter.failure || S(a[6]) === filter.failure;
}

// The final questions (indices of their texts) of a group that the filters let through; null when the group is out.
function matching(group) {
  if (filter.where && (filter.where === "held-out") !== (group.where === null)) return null;
  if (filter.source && group.source !== filter.source) return null;
  const named = !filter.search || group.name.toLowerCase().includes(filter.search);
  const found = new Set();
  let asked = false;
  for (const column of group.columns) {
    if (group.where === null && filter.policy && column.label !== filter.policy) continue;
    for (const a of column.answers) {
      if (a[0] !== null) continue;
      asked = true;
      if (matchesAnswer(a) && (named || S(a[1]).toLowerCase().includes(filter.search))) found.add(a[1]);
    }
  }
  if (found.size) return found;
  const unfiltered = !filter.answers && !filter.failure && named;
  return !asked && unfiltered ? found : null;
}

const PAGE = 100;
let shown = [], limit = PAGE, open = null;
function refresh() {
  shown = [];
  let questions = 0;
  for (const group of groups) {
    const found = matching(group);
    if (!found) continue;
    shown.push([group, found]);
    questions += found.size;
  }
  limit = PAGE;
  $("count").textContent = `${questions.toLocaleString("en")} questions in ${shown.length.toLocaleString("en")} of ${groups.length.toLocaleString("en")} episodes match.`;
  drawList();
  openHash(null, false);
}
function drawList() {
  $("list").replaceChildren(...shown.slice(0, limit).map(([group, found]) => el("li", {},
    el("a", { href: `#g${group.index}`, "aria-current": open === group ? "true" : null },
      text(group.name), el("span", {}, String(found.size)), el("small", {}, `${whereName(group.where)} · ${group.source}`)))));
  $("list-more").hidden = shown.length <= limit;
  $("list-more").textContent = `Show ${Math.min(PAGE, shown.length - limit)} more of ${shown.length - limit}`;
}
$("list-more").addEventListener("click", () => { limit += PAGE; drawList(); });

// --- one episode ---------------------------------------------------------------------------------------------

const hidden = new Set(); // labels of columns that are switched off
function drawEpisode(group, found) {
  open = group;
  const box = $("episode");
  box.replaceChildren();
  if (!group) return void box.append(el("p", { class: "note" }, groups.length ? "No episode matches." : "No rollouts were recorded."));
  const columns = group.columns.map((c, i) => ({ ...c, index: i })).filter((c) => !hidden.has(c.label));
  box.append(el("h3", {}, text(group.name)), el("div", { class: "soft" }, `${whereName(group.where)} · `, text(group.source), ` · ${group.chunks.length} chunks`));
  if (group.columns.length > 1) {
    box.append(el("fieldset", { class: "columns" }, el("legend", {}, "Show"), ...group.columns.map((c) => {
      const tick = el("input", { type: "checkbox", checked: !hidden.has(c.label), onchange: () => {
        hidden[tick.checked ? "delete" : "add"](c.label);
        drawEpisode(group, found);
      } });
      return el("label", {}, tick, c.label);
    })));
  }
  const sheet = el("table", { style: `--n:${columns.length}` });
  sheet.append(el("thead", {}, el("tr", {}, ...columns.map((c) => el("th", { scope: "col" }, el("b", {}, c.label), headline(c))))));
  const body = el("tbody");
  const memories = columns.map(() => new Map());
  group.chunks.forEach((chunk, t) => {
    body.append(lead(`Chunk ${t}`, text(S(chunk), { tag: "div", class: "chunk" }), columns.length));
    body.append(el("tr", {}, ...columns.map((c, i) => stepCell(group, c, t, memories[i]))));
  });
  for (const question of finalQuestions(columns)) {
    if (filter.only && found && !found.has(question)) continue;
    const answers = columns.map((c) => c.answers.find((a) => a[0] === null && a[1] === question));
    const first = readAnswer(answers.find(Boolean));
    const gold = el("span", { class: "soft" }, " expected: ", ...first.gold.flatMap((g, i) => [i ? " or " : "", text(g)]), first.kind ? ` (${first.kind})` : "");
    body.append(lead("Question", el("div", {}, text(first.question), gold), columns.length));
    body.append(el("tr", {}, ...columns.map((c, i) => el("td", {}, answers[i] ? answerView(group, c, readAnswer(answers[i])) : "not asked"))));
  }
  sheet.append(body);
  box.append(el("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Steps and answers, side by side" }, sheet));
  markCurrent(group);
}

function markCurrent(group) {
  const place = shown.findIndex(([other]) => other === group);
  if (place >= limit) {
    limit = place + PAGE;
    drawList();
  }
  const pane = $("list-pane");
  for (const link of $("list").querySelectorAll("a")) {
    if (link.hash !== `#g${group.index}`) {
      link.removeAttribute("aria-current");
      continue;
    }
    link.setAttribute("aria-current", "true"); // and bring it into view inside its pane, without moving the page
    const below = link.getBoundingClientRect().bottom - pane.getBoundingClientRect().bottom;
    const above = link.getBoundingClientRect().top - pane.getBoundingClientRect().top;
    pane.scrollTop += below > 0 ? below : above < 0 ? above : 0;
  }
}

const finalQuestions = (columns) => [...new Set(columns.flatMap((c) => c.answers.filter((a) => a[0] === null).map((a) => a[1])))];
const lead = (title, content, span) => el("tr", { class: "lead" }, el("th", { colspan: span, scope: "rowgroup" }, el("div", {}, el("strong", {}, title), content)));
const part = (title, ...content) => el("div", { class: "part" }, el("h4", {}, title), ...content);

function headline(column) {
  const finals = column.answers.filter((a) => a[0] === null && a[5] !== null);
  const score = finals.reduce((sum, a) => sum + a[5], 0);
  const tokens = column.steps.length ? column.steps.at(-1)[5] : 0;
  return el("span", { class: "soft" }, finals.length ? `${plain(score)} of ${finals.length} · ` : "", `${tokens} tokens kept`);
}

function stepCell(group, column, t, memory) {
  const cell = el("td", { id: `g${group.index}c${column.index}t${t}`, tabindex: "-1" });
  if (!column.steps[t]) return cell;
  const step = readStep(column.steps[t]);
  if (column.advantage) cell.append(part("Rewards and advantage", bars(column, t)));
  cell.append(part("Operations", operationsView(step)), part("Memory", diffView(step, memory)));
  const asked = column.answers.filter((a) => a[0] === t).map(readAnswer);
  if (asked.length) {
    cell.append(part("Questions about this chunk", el("ul", { class: "plain" }, ...asked.map((a) => el("li", {}, verdict(a), " ", text(a.question), " ", el("b", {}, text(a.answer || "–")),
      isWrong(a.score) ? el("span", { class: "soft" }, " expected ", text(a.gold.join(" or "))) : null)))));
  }
  cell.append(el("details", { class: "part" }, el("summary", {}, step.cut ? "as written (cut at the length limit)" : "as written"), text(step.raw, { tag: "div", class: "raw" })));
  return cell;
}

function bars(column, t) {
  const grid = el("div", { class: "bars" });
  const row = (name, value, low, high, color) => {
    const track = el("div", { class: low < 0 ? "both" : "" });
    if (value !== null && value !== undefined) {
      const zero = ((0 - low) / (high - low)) * 100;
      const end = ((Math.max(low, Math.min(high, value)) - low) / (high - low)) * 100;
      track.append(el("i", { style: `--s:${color};left:${Math.min(zero, end)}%;width:${Math.abs(end - zero)}%` }));
    }
    grid.append(el("span", {}, name), track, el("output", {}, digits(value)));
  };
  data.terms.forEach((name, i) => {
    if (column.rewards[i]) row(`${name} ×${data.weights[i]}`, column.rewards[i][t], 0, 1, `var(--c${i % 8})`);
  });
  row("total", column.total[t], 0, Math.max(1, ...column.total.filter((v) => v !== null)), "var(--soft)");
  row("advantage", column.advantage[t], -2.5, 2.5, column.advantage[t] < 0 ? "var(--bad)" : "var(--good)");
  return grid;
}

function operationsView(step) {
  if (!step.operations.length) return el("div", { class: "bad" }, "none could be read");
  return el("ul", { class: "plain" }, ...step.operations.map(([name, fields, status, ok, item, evicted]) => {
    const label = S(name).replace(/^memory_/, "").toUpperCase() || "?";
    const values = fields.map(([key, value]) => [S(key), S(value)]);
    const content = values.map(([key, value]) => (key === "id" ? el("span", { class: "id" }, text(value), " ") : text(value)));
    const outcome = S(status);
    const note = outcome === "applied" || outcome === "skipped" ? (item !== null && !values.some(([k]) => k === "id") ? ` → ${S(item)}` : "") : ` ${outcome}`;
    return el("li", {}, el("span", { class: `op ${ok ? "good" : "bad"}` }, `${ok ? "✓" : "✗"} ${label}`), " ", ...content,
      note ? el("span", { class: ok ? "soft" : "bad" }, note) : null,
      evicted.length ? el("span", { class: "soft" }, ` evicted ${evicted.map(S).join(", ")}`) : null);
  }));
}

// What the step changed; `memory` (id -> text) is brought from before the step to after it.
function diffView(step, memory) {
  const list = el("ul", { class: "plain diff" });
  const touched = new Set(step.written.map(([id]) => S(id)));
  const kept = [...memory.entries()].filter(([id]) => !touched.has(id) && !step.removed.some((r) => S(r) === id));
  const line = (kind, sign, id, ...content) => list.append(el("li", { "data-item": id }, el("span", { class: kind, "aria-label": { add: "added", del: "removed", change: "changed" }[kind] }, sign), el("span", { class: kind === "del" ? "del" : "" }, el("span", { class: "id" }, id, " "), ...content)));
  for (const id of step.removed) {
    line("del", "−", S(id), text(memory.get(S(id)) ?? ""));
    memory.delete(S(id));
  }
  for (const [index, , content] of step.written) {
    const id = S(index), old = memory.get(id);
    if (old === undefined) line("add", "+", id, text(S(content)));
    else line("change", "~", id, text(old, { class: "old del" }), " ", text(S(content)));
    memory.set(id, S(content));
  }
  const box = el("div", {});
  if (list.firstChild) box.append(list);
  const size = `${memory.size} items, ${step.tokens} tokens`;
  if (kept.length) {
    const unchanged = el("ul", { class: "plain diff" });
    box.append(el("details", { ontoggle: () => {
      if (!unchanged.firstChild) unchanged.append(...kept.map(([id, content]) => el("li", {}, el("span", {}, ""), el("span", {}, el("span", { class: "id" }, id, " "), text(content)))));
    } }, el("summary", {}, `${kept.length} unchanged · ${size}`), unchanged));
  } else box.append(el("div", { class: "soft" }, list.firstChild ? size : `no change · ${size}`));
  return box;
}

function verdict(answer) {
  if (answer.score === null) return el("span", { class: "soft" }, "? missing");
  return el("span", { class: isWrong(answer.score) ? "bad" : "good" }, `${isWrong(answer.score) ? "✗" : "✓"} ${short(answer.score)}`);
}

function answerView(group, column, answer) {
  const box = el("div", {}, el("div", {}, verdict(answer), " ", el("b", {}, text(answer.answer || "–")), answer.failure && isWrong(answer.score) ? el("span", { class: "bad" }, ` ${answer.failure}`) : null));
  if (!answer.retrieved.length) box.append(el("div", { class: "soft" }, "nothing was retrieved"));
  box.append(el("ul", { class: "plain" }, ...answer.retrieved.map((item) => el("li", {},
    el("a", { href: `#g${group.index}c${column.index}t${item.step}`, "data-item": item.id, title: `BM25 ${short(item.bm25)}` }, `step ${item.step}`, " ", item.id), " ", text(item.text)))));
  return box;
}

// --- links and keys ------------------------------------------------------------------------------------------

// Shows what the address names, or, after a change of the filters (`move` false), what is left of it.
function openHash(item, move = true) {
  const parts = /^#g(\d+)(?:c(\d+)t(\d+))?$/.exec(location.hash);
  let entry = parts && groups[+parts[1]] ? [groups[+parts[1]], matching(groups[+parts[1]])] : null;
  if (!entry || (!move && !entry[1])) entry = shown.find(([group]) => group === open) || shown[0] || [null, null];
  if (parts && parts[2] !== undefined && entry[0]) hidden.delete(entry[0].columns[+parts[2]]?.label);
  drawEpisode(...entry);
  for (const node of document.querySelectorAll("td.here, .hit")) node.classList.remove("here", "hit");
  if (!parts || !move) return;
  const cell = $(location.hash.slice(1));
  const target = cell || $("episode");
  if (cell) {
    cell.classList.add("here");
    for (const node of cell.querySelectorAll("[data-item]")) if (node.dataset.item === item) node.classList.add("hit");
  }
  target.scrollIntoView({ block: "start", inline: "nearest" });
  target.focus({ preventScroll: true });
}
let wanted = null; // the item whose link was followed
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-item]");
  if (!link) return;
  wanted = link.dataset.item;
  if (link.hash === location.hash) openHash(wanted);
});
addEventListener("hashchange", () => { openHash(wanted); wanted = null; });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "j" || event.key === "k") {
    const at = shown.findIndex(([group]) => group === open);
    const next = shown[Math.max(0, Math.min(shown.length - 1, at + (event.key === "j" ? 1 : -1)))];
    if (!next) return;
    history.pushState(null, "", `#g${next[0].index}`); // fires no hashchange: a quick second key starts from here
    openHash();
  }
});
refresh();
if (location.hash) openHash();
