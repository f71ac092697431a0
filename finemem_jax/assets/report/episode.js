// --- the episodes: reading the compact records ------------------------------------------------------------------
// Order of the fields: reporting/compact.py, `compact_…`.

let groups = [];
function readGroups() {
  groups = data.groups.map((g, index) => ({
    index, where: g[0], name: S(g[1]), source: S(g[2]), chunks: g[3],
    columns: g[4].map((c, i) => ({ index: i, label: S(c[0]), steps: c[1], answers: c[2], rewards: c[3], total: c[4], advantage: c[5] })),
  }));
}
const readStep = (s) => ({ raw: S(s[0]), cut: s[1], operations: s[2], removed: s[3], written: s[4], tokens: s[5], prompt: s[6], role: s[7] ? S(s[7]) : "write" });
const readAnswer = (a) => ({
  step: a[0], question: S(a[1]), kind: S(a[2]), gold: a[3].map(S), answer: S(a[4]), score: a[5], failure: S(a[6]), flow: a[8] || null,
  retrieved: a[7].map((r) => ({ id: S(r[0]), step: r[1], text: S(r[2]), bm25: r[3], writers: r[4] || [r[1]] })),
});
// Which chunk a turn is about: that of its place, unless its record says another; a turn that writes nothing, none.
const chunkOf = (s, t) => (!s ? null : s[8] ? s[8] - 1 : s[7] ? null : t);
const chunkText = (group, s, t) => { const at = chunkOf(s, t); return at === null || group.chunks[at] === undefined ? "" : S(group.chunks[at]); };
const isWrong = (score) => score !== null && score < 0.5;
const whereName = (where) => (where === null ? "held-out" : `training step ${where}`);
const key = (group) => `${group.where} ${group.name}`;

// What each step is paid by the final questions; null where that cannot be told.
function stepCredit(column, finals) {
  if (!finals.some((answer) => answer.flow)) return null;
  const writes = column.steps.map((s, t) => (s[7] ? null : t)).filter((t) => t !== null);
  const found = column.steps.map(() => 0);
  for (const answer of finals) for (const t of writes) if (answer.flow) found[t] += answer.flow[0] / writes.length;
  for (const way of creditWays(finals)) if (way.t < found.length) found[way.t] += way.amount;
  return found;
}

// --- one episode -------------------------------------------------------------------------------------------------

const BLOCK = 60; // steps drawn at once
const hidden = new Set(); // labels of columns that are switched off
let open = null, drawn = null; // the group that is shown; what redraws it

function redraw() { if (drawn) drawEpisode(...drawn); }

function drawEpisode(group, found, at = 0) { // at: a step that is to be among those drawn
  open = group;
  drawn = [group, found, at];
  const box = $("episode");
  box.replaceChildren();
  if (!group) return void box.append(el("p", { class: "note" }, groups.length ? "No episode matches." : "No rollouts were recorded."));
  const columns = group.columns.filter((c) => !hidden.has(c.label));
  box.append(el("h3", {}, text(group.name)), el("div", { class: "soft" }, `${whereName(group.where)} · `, text(group.source), ` · ${many(group.chunks.length, "chunk")}`));
  if (group.columns.length > 1) {
    box.append(el("fieldset", { class: "columns" }, el("legend", {}, "Show"), ...group.columns.map((c) => {
      const tick = el("input", { type: "checkbox", checked: !hidden.has(c.label), onchange: () => {
        hidden[tick.checked ? "delete" : "add"](c.label);
        choose("hide", [...hidden].join("|"));
        drawEpisode(group, found, at);
        [...$("episode").querySelectorAll(".columns input")][c.index].focus();
      } });
      return el("label", {}, tick, c.label);
    })));
  }
  const shownColumns = columns.filter((c) => c.steps.length);
  const pictured = shownColumns.find((c) => c.label === chosen.of) || shownColumns.find((c) => c.label === filter.policy) || mostPaid(shownColumns);
  if (pictured) box.append(picture(group, pictured));
  const sheet = el("table", { style: `--n:${columns.length}` });
  sheet.append(el("thead", {}, el("tr", {}, ...columns.map((c) => el("th", { scope: "col" }, el("b", {}, c.label), headline(c))))));
  const body = el("tbody");
  const finals = columns.map((c) => c.answers.filter((a) => a[0] === null).map(readAnswer));
  const credits = columns.map((c, i) => stepCredit(c, finals[i]));
  const memories = columns.map(() => new Map()), prompts = columns.map(() => []);
  const count = Math.max(group.chunks.length, ...columns.map((c) => c.steps.length));
  const first = Math.floor(Math.min(at, Math.max(count - 1, 0)) / BLOCK) * BLOCK, end = Math.min(count, first + BLOCK);
  const turnTo = (from) => el("button", { type: "button", onclick: () => {
    drawEpisode(group, found, from);
    $(`g${group.index}c${columns[0].index}t${from}`)?.scrollIntoView({ block: "center" });
  } }, `Steps ${from} to ${Math.min(count, from + BLOCK) - 1}`);
  for (let t = 0; t < end; t += 1) {
    if (t < first) {
      columns.forEach((c, i) => c.steps[t] && advance(readStep(c.steps[t]), memories[i]));
      continue;
    }
    if (t === first && first) body.append(lead("Earlier", turnTo(first - BLOCK), columns.length));
    const read = [...new Set(columns.map((c) => chunkOf(c.steps[t], t)))].filter((at) => at !== null && group.chunks[at] !== undefined);
    if (!read.length && !columns.some((c) => c.steps[t]) && group.chunks[t] !== undefined) read.push(t);
    const title = read.length ? `Chunk ${read.join(", ")}` : `Turn ${t}`;
    body.append(lead(title, el("div", {}, ...read.map((at) => text(S(group.chunks[at]), { tag: "div", class: "chunk" }))), columns.length));
    body.append(el("tr", {}, ...columns.map((c, i) => stepCell(group, c, t, memories[i], finals[i], credits[i]))));
  }
  if (end < count) body.append(lead(`Later, ${count - end} more`, turnTo(end), columns.length));
  for (const question of finalQuestions(columns)) {
    if (chosen.only && found && !found.has(question)) continue;
    const places = columns.map((c) => c.answers.filter((a) => a[0] === null).findIndex((a) => a[1] === question));
    const first = finals.map((of, i) => of[places[i]]).find(Boolean);
    const gold = el("span", { class: "soft" }, " expected: ", ...first.gold.flatMap((g, i) => [i ? " or " : "", text(g)]), first.kind ? ` (${first.kind})` : "");
    body.append(lead(`Question ${places.find((p) => p >= 0) + 1}`, el("div", {}, text(first.question), gold), columns.length));
    body.append(el("tr", {}, ...columns.map((c, i) => el("td", { id: places[i] < 0 ? null : `g${group.index}c${c.index}q${places[i]}`, tabindex: "-1" }, finals[i][places[i]] ? answerView(group, c, finals[i][places[i]]) : "not asked"))));
  }
  sheet.append(body);
  box.append(el("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Steps and answers, side by side" }, sheet));
  markCurrent(group);
}

function mostPaid(columns) {
  const best = (c) => Math.max(0, ...creditWays(c.answers.filter((a) => a[0] === null).map(readAnswer)).map((way) => way.amount));
  return columns.map((c) => [best(c), c]).sort((a, b) => b[0] - a[0])[0]?.[1];
}

const finalQuestions = (columns) => [...new Set(columns.flatMap((c) => c.answers.filter((a) => a[0] === null).map((a) => a[1])))];
const lead = (title, content, span) => el("tr", { class: "lead" }, el("th", { colspan: span || 1, scope: "rowgroup" }, el("div", {}, el("strong", {}, title), content)));
const part = (title, ...content) => el("div", { class: "part" }, el("h4", {}, title), ...content);

function headline(column) {
  const finals = column.answers.filter((a) => a[0] === null && a[5] !== null);
  const score = finals.reduce((sum, a) => sum + a[5], 0);
  const tokens = column.steps.length ? column.steps.at(-1)[5] : 0;
  return el("span", { class: "soft" }, finals.length ? `${plain(score)} of ${finals.length} · ` : "", `${tokens} tokens kept`);
}

function stepCell(group, column, t, memory, finals, credit) {
  const cell = el("td", { id: `g${group.index}c${column.index}t${t}`, tabindex: "-1" });
  if (!column.steps[t]) return cell;
  const step = readStep(column.steps[t]);
  if (column.advantage) cell.append(part("Rewards and advantage", bars(column, t)));
  if (credit && step.role === "write") cell.append(evidenceOf(group, column, t, finals, credit[t]));
  cell.append(part("Operations", operationsView(step)), part("Memory", diffView(step, memory)));
  const asked = column.answers.filter((a) => a[0] !== null && a[0] === chunkOf(column.steps[t], t)).map(readAnswer);
  if (asked.length) {
    cell.append(part("Questions about this chunk", el("ul", { class: "plain" }, ...asked.map((a) => el("li", {}, verdict(a), " ", text(a.question), " ", el("b", {}, text(a.answer || "–")),
      isWrong(a.score) ? el("span", { class: "soft" }, " expected ", text(a.gold.join(" or "))) : null)))));
  }
  cell.append(el("details", { class: "part" }, el("summary", {}, step.cut ? "as written (cut at the length limit)" : "as written"), text(step.raw, { tag: "div", class: "raw" })));
  if (step.prompt) cell.append(folded("prompt", () => text(promptAt(column, t), { tag: "div", class: "raw" })));
  return cell;
}

// A prompt is recorded as how much of it is that of the turn before, and the rest.
function promptAt(column, t) {
  let found = "";
  for (let i = 0; i <= t; i += 1) {
    const said = column.steps[i][6];
    if (said) found = found.slice(0, said[0]) + S(said[1]);
  }
  return found;
}

function folded(title, content) {
  const box = el("details", { class: "part", ontoggle: () => { if (box.open && box.children.length < 2) box.append(content()); } }, el("summary", {}, title));
  return box;
}

// Which question gave the step what it is paid as evidence.
function evidenceOf(group, column, t, finals, sum) {
  const writes = column.steps.filter((s) => !s[7]).length;
  const alike = finals.reduce((total, a) => total + (a.flow ? a.flow[0] : 0), 0) / Math.max(writes, 1);
  const ways = creditWays(finals).filter((way) => way.t === t && way.amount);
  const rows = ways.map((way) => el("li", {}, el("span", {}, "item ", el("span", { class: "id" }, text(way.id)), " retrieved for ",
    el("a", { href: `#g${group.index}c${column.index}q${way.q}`, title: line(finals[way.q].question) }, `question ${way.q + 1}`)), el("output", {}, signed(way.amount))));
  if (alike) rows.push(el("li", {}, el("span", {}, "share of all steps alike"), el("output", {}, signed(alike))));
  const wanted = finals.length && !rows.length ? [el("li", {}, el("span", { class: "soft" }, "nothing"))] : rows;
  return el("div", { class: "part flows", style: `--s:${color("evidence")}` }, el("h4", {}, `Evidence ${signed(sum)}${group.where === null ? ", as it would be paid" : ", by question"}`), el("ul", { class: "plain" }, ...wanted));
}

function bars(column, t) {
  const grid = el("div", { class: "bars" });
  const row = (name, value, low, high, paint) => {
    const track = el("div", { class: low < 0 ? "both" : "" });
    if (value !== null && value !== undefined) {
      const zero = ((0 - low) / (high - low)) * 100;
      const end = ((Math.max(low, Math.min(high, value)) - low) / (high - low)) * 100;
      track.append(el("i", { style: `--s:${paint};left:${Math.min(zero, end)}%;width:${Math.abs(end - zero)}%` }));
    }
    grid.append(el("span", {}, name), track, el("output", {}, digits(value)));
  };
  data.terms.forEach((name, i) => {
    if (column.rewards[i]) row(`${name} ×${data.weights[i]}`, column.rewards[i][t], 0, 1, color(name));
  });
  row("total", column.total[t], 0, Math.max(1, ...column.total.filter((v) => v !== null)), color("total"));
  row("advantage", column.advantage[t], -2.5, 2.5, column.advantage[t] < 0 ? "var(--bad)" : "var(--good)");
  return grid;
}

function operationsView(step) {
  if (step.role !== "write") return el("div", { class: "soft" }, step.role);
  if (!step.operations.length) return el("div", { class: "bad" }, "none could be read");
  return el("ul", { class: "plain" }, ...step.operations.map(([name, fields, status, ok, item, evicted]) => {
    const label = S(name).replace(/^memory_/, "").toUpperCase() || "?";
    const values = fields.map(([name, value]) => [S(name), S(value)]);
    const content = values.flatMap(([name, value]) => [name === "id" ? el("span", { class: "id" }, text(value)) : text(value), " "]);
    const outcome = S(status);
    const note = outcome === "applied" || outcome === "skipped" ? (item !== null && !values.some(([k]) => k === "id") ? ` → ${S(item)}` : "") : ` ${outcome}`;
    return el("li", {}, el("span", { class: `op ${ok ? "good" : "bad"}` }, `${ok ? "✓" : "✗"} ${label}`), " ", ...content,
      note ? el("span", { class: ok ? "soft" : "bad" }, note) : null,
      evicted.length ? el("span", { class: "soft" }, ` evicted ${evicted.map(S).join(", ")}`) : null);
  }));
}

// Brings `memory` (id -> text) from before the step to after it.
function advance(step, memory) {
  for (const id of step.removed) memory.delete(S(id));
  for (const [id, , content] of step.written) memory.set(S(id), S(content));
}

// What the step changed; `memory` is brought to after it.
function diffView(step, memory) {
  const list = el("ul", { class: "plain diff" });
  const touched = new Set(step.written.map(([id]) => S(id)));
  const kept = [...memory.entries()].filter(([id]) => !touched.has(id) && !step.removed.some((r) => S(r) === id));
  const row = (kind, sign, id, ...content) => list.append(el("li", { "data-item": id }, el("span", { class: kind, "aria-label": { add: "added", del: "removed", change: "changed" }[kind] }, sign), el("span", { class: kind === "del" ? "del" : "" }, el("span", { class: "id" }, text(id), " "), ...content)));
  for (const id of step.removed) row("del", "−", S(id), text(memory.get(S(id)) ?? ""));
  for (const [index, , content] of step.written) {
    const id = S(index), old = memory.get(id);
    if (old === undefined) row("add", "+", id, text(S(content)));
    else row("change", "~", id, text(old, { class: "old del" }), " ", text(S(content)));
  }
  advance(step, memory);
  const box = el("div", {});
  if (list.firstChild) box.append(list);
  const size = `${many(memory.size, "item")}, ${many(step.tokens, "token")}`;
  if (kept.length) {
    const unchanged = el("ul", { class: "plain diff" });
    box.append(el("details", { ontoggle: () => {
      if (!unchanged.firstChild) unchanged.append(...kept.map(([id, content]) => el("li", {}, el("span", {}, ""), el("span", {}, el("span", { class: "id" }, text(id), " "), text(content)))));
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
    item.step < 0 ? el("span", { class: "soft" }, `from the start ${line(item.id, 30)}`)
      : el("a", { href: `#g${group.index}c${column.index}t${item.step}`, "data-item": item.id, title: `BM25 ${short(item.bm25)}` }, `step ${item.step}`, " ", line(item.id, 30)), " ", text(item.text)))));
  if (answer.flow) box.append(shareOf(group, column, answer));
  return box;
}

// To which steps the question's share of the score went; the amounts add up to it.
function shareOf(group, column, answer) {
  const [alike, lost, paid] = answer.flow;
  const bySteps = new Map();
  answer.retrieved.forEach((item, i) => {
    const steps = payees(item);
    for (const t of steps) if (paid[i]) bySteps.set(t, [...(bySteps.get(t) || []), [item.id, paid[i] / steps.length]]);
  });
  const rows = [...bySteps].sort((a, b) => a[0] - b[0]).map(([t, parts]) => el("li", {},
    el("span", {}, el("a", { href: `#g${group.index}c${column.index}t${t}`, "data-item": parts[0][0] }, `step ${t}`), ` (${parts.map(([id]) => line(id, 20)).join(", ")})`),
    el("output", {}, signed(parts.reduce((sum, [, amount]) => sum + amount, 0)))));
  const writes = column.steps.filter((s) => !s[7]).length;
  if (alike) rows.push(el("li", {}, el("span", {}, `all ${many(writes, "step")} alike`), el("output", {}, signed(alike))));
  if (lost) rows.push(el("li", {}, el("span", {}, "lost: nothing was retrieved"), el("output", {}, signed(lost))));
  const total = alike + lost + paid.reduce((a, b) => a + b, 0);
  return el("div", { class: "part flows", style: `--s:${color("evidence")}` }, el("h4", {}, `Its share ${digits(total)} went to`), el("ul", { class: "plain" }, ...(rows.length ? rows : [el("li", {}, "no step")])));
}
