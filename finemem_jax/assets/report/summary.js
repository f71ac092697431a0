// --- head, tables, causes, times -------------------------------------------------------------------------------

function drawHead() {
  $("name").replaceChildren(text(data.name));
  $("kicker").textContent = data.kicker;
  $("verdict").textContent = data.verdict;
  $("facts").replaceChildren(...data.facts.map(([label, value]) => el("div", {}, el("dt", {}, label), el("dd", {}, text(value)))));
  $("notes").replaceChildren(...data.notes.map((note) => el("p", { class: "note" }, text(note))));
  $("config-text").replaceChildren(text(JSON.stringify(data.config, null, 1)));
  for (const [id, there] of [["episodes", data.groups.length || !data.runs.length], ["causes", data.causes.length], ["time", data.phases.length || !data.runs.length]]) {
    $(id).hidden = !there;
    document.querySelector(`nav a[href="#${id}"]`).hidden = !there;
  }
}

function resultTable(table, id) {
  const head = el("tr", {}, el("th", { scope: "col" }, ""), ...table.columns.map((c, i) => el("th", { scope: "col", title: table.logged[i] }, c)));
  let last = "";
  const rows = table.rows.map((row) => {
    const divide = row.when !== last && last ? "divide" : "";
    last = row.when;
    const cells = row.values.map((value, i) => {
      const sure = row.intervals[i];
      return el("td", {}, digits(value, table.digits[i]), sure ? el("small", {}, `${digits(sure[0], table.digits[i])} to ${digits(sure[1], table.digits[i])}`) : null);
    });
    return el("tr", { class: `${row.when} ${divide}` }, el("th", { scope: "row" }, text(row.name)), ...cells);
  });
  const grid = el("table", { id, class: "results" }, el("thead", {}, head), el("tbody", {}, ...rows));
  const box = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title || "Table of results" }, grid);
  return table.title ? el("div", { class: "further" }, el("h3", {}, table.title), box) : box;
}

function drawTables() {
  const found = data.tables.filter((table) => table.rows.length);
  $("tables").replaceChildren(...(found.length ? found.map((table, i) => resultTable(table, i ? null : "table")) : ["No evaluation yet."]));
  const sure = found.some((table) => table.rows.some((row) => row.intervals.some(Boolean)));
  $("sure").textContent = sure ? data.interval_note : "";
}

// The final questions of each policy, as one bar: how many are right, and where the others were lost.
const OUTCOMES = ["right", "construction", "retrieval", "answering", "unknown", "missing"];
const MEANING = {
  right: "right", construction: "lost at construction: memory does not hold it", retrieval: "lost at retrieval: memory holds it, it was not found",
  answering: "lost at answering: it was found", unknown: "cause unknown", missing: "no answer came",
};
function drawCauses() {
  const bar = (row) => {
    const total = row.counts.reduce((a, b) => a + b, 0);
    const parts = row.counts.map((count, i) => [count, OUTCOMES[i]]).filter(([count]) => count);
    const said = parts.map(([count, name]) => `${name} ${count}`).join(", ");
    return el("div", { class: "cause", role: "img", "aria-label": `${row.policy}: ${said}`, title: said },
      ...parts.map(([count, name]) => el("i", { class: `k-${name}`, style: `flex-grow:${count}` }, count / total > 0.045 ? String(count) : "")));
  };
  // One temperature at first, that of the episodes below; the others behind a fold.
  const at = (row) => row.policy.replace(/^\S+ /, ""), first = at({ policy: DEFAULTS.policy || data.causes[0]?.policy || "" });
  const others = data.causes.filter((row) => at(row) !== first);
  $("cause-bars").replaceChildren(causeLegend(), ...causeBars(data.causes.filter((row) => at(row) === first), bar));
  if (others.length) $("cause-bars").append(el("details", {}, el("summary", {}, "Sampled otherwise"), ...causeBars(others, bar)));
}

function causeBars(shown, bar) {
  const titles = new Map();
  for (const row of shown) {
    const title = row.by === "all" ? "All final questions" : `${row.by === "kind" ? "Kind" : "Source"}: ${line(row.name, 60)}`;
    if (!titles.has(title)) titles.set(title, []);
    titles.get(title).push(row);
  }
  return [...titles].map(([title, rows]) => el("div", { class: "causes" }, el("h3", {}, title), ...rows.flatMap((row) => [el("span", {}, row.policy), bar(row)])));
}

const causeLegend = () => el("ul", { class: "legend blocks" }, ...OUTCOMES.filter((name, i) => data.causes.some((row) => row.counts[i]))
  .map((name) => el("li", {}, el("i", { class: `k-${name}` }), MEANING[name])));

function drawPhases() {
  const most = Math.max(...data.phases.map((p) => p.seconds));
  const rows = data.phases.flatMap((phase) => [
    el("span", {}, phase.name), el("span", {}, el("i", { style: `width:${(100 * phase.seconds) / most}%` })),
    el("span", {}, `${short(phase.seconds)} s a step, ${(100 * phase.share).toFixed(0)} %`)]);
  $("phases").replaceChildren(...(rows.length ? rows : [el("p", { class: "note" }, "No time was logged.")]));
}
