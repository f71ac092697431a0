// --- filters, search and the list of episodes ------------------------------------------------------------------

Object.assign(DEFAULTS, { where: "", policy: "", source: "", answers: "", failure: "", search: "", only: true, sort: "instructive", hide: "", of: "", all: false });
Object.assign(chosen, DEFAULTS);
const filter = chosen;
let haystack = null; // texts in lower case, and of each group the numbers of its texts, when first searched

// Before beside after, at one temperature; the rest can be switched on.
function startColumns() {
  const labels = [...new Set(groups.filter((g) => g.where === null).flatMap((g) => g.columns.map((c) => c.label)))];
  const policy = labels.find((label) => label.startsWith("after")) || labels[0] || "";
  const shown = new Set([policy, policy.replace(/^after/, "before")]);
  DEFAULTS.policy = policy;
  DEFAULTS.hide = labels.filter((label) => !shown.has(label)).join("|");
  return labels;
}

function drawControls(labels) {
  const pick = (name, title, options) => {
    const select = el("select", { name, onchange: () => { choose(name, select.value); refresh(); } },
      ...options.map(([value, label]) => el("option", { value, selected: chosen[name] === value }, label)));
    return el("label", {}, title, select);
  };
  const failures = [...new Set(data.groups.flatMap((g) => g[4].flatMap((c) => c[2].map((a) => a[6]))))].map(S).filter(Boolean).sort();
  const sources = [...new Set(groups.map((g) => g.source))].sort();
  const search = el("input", { type: "search", id: "search", name: "search", value: chosen.search, oninput: () => { choose("search", search.value); refresh(); } });
  const only = el("input", { type: "checkbox", name: "only", checked: chosen.only, onchange: () => { choose("only", only.checked); openHash(null, false); } });
  $("filters").replaceChildren(
    pick("sort", "First", [["instructive", "most instructive"], ["recorded", "as recorded"]]),
    pick("where", "From", [["", "all"], ["held-out", "held-out"], ["training", "training"]]),
    pick("policy", "Held-out answers of", [["", "anyone"], ...labels.map((l) => [l, l])]),
    pick("answers", "Answers", [["", "all"], ["wrong", "wrong"], ["right", "right"], ["missing", "missing"]]),
    pick("failure", "Cause of failure", [["", "any"], ...failures.map((f) => [f, f])]),
    pick("source", "Source", [["", "all"], ...sources.map((s) => [s, line(s, 40)])]),
    el("label", { class: "wide" }, "Search everything read, written and asked", search),
    el("label", { class: "check" }, only, "hide other questions"),
  );
}

// --- how much there is to learn from an episode ----------------------------------------------------------------

// Held-out: questions that went from wrong to right (1 each) or back (0.9), at the temperature shown. Training: the
// largest spread of the advantage at a step; either way, a little for the largest credit of a single write.
function instruction(group) {
  let found = 0, most = 0;
  const finals = (c) => (c ? c.answers.filter((a) => a[0] === null) : []);
  if (group.where === null) {
    const after = group.columns.find((c) => c.label === DEFAULTS.policy);
    const before = group.columns.find((c) => c.label === DEFAULTS.policy.replace(/^after/, "before"));
    if (before && after && before !== after) {
      const was = new Map(finals(before).map((a) => [a[1], a[5]]));
      group.turned = { better: 0, worse: 0 };
      for (const a of finals(after)) {
        const old = was.get(a[1]);
        if (old === undefined || old === null || a[5] === null || isWrong(old) === isWrong(a[5])) continue;
        group.turned[isWrong(a[5]) ? "worse" : "better"] += 1;
      }
      found = group.turned.better + 0.9 * group.turned.worse;
    }
  } else {
    const steps = Math.max(0, ...group.columns.map((c) => (c.advantage ? c.advantage.length : 0)));
    for (let t = 0; t < steps; t += 1) {
      const at = group.columns.map((c) => c.total?.[t]).filter((v) => typeof v === "number");
      if (at.length) found = Math.max(found, Math.max(...at) - Math.min(...at));
    }
  }
  for (const c of group.columns) for (const a of finals(c)) for (const amount of a[8] ? a[8][2] : []) most = Math.max(most, amount);
  return found + Math.min(most, 1) / 2;
}

// --- search ----------------------------------------------------------------------------------------------------

function texts(group) { // numbers of all its texts, by final question where they are of one
  const shared = new Set(group.chunks), questions = new Map();
  for (const c of group.columns) {
    for (const s of c.steps) {
      shared.add(s[0]);
      for (const o of s[2]) for (const [, value] of o[1]) shared.add(value);
      for (const [, , content] of s[4]) shared.add(content);
      if (s[6]) shared.add(s[6][1]);
    }
    for (const a of c.answers) {
      const own = a[0] === null ? questions.get(a[1]) || questions.set(a[1], new Set()).get(a[1]) : shared;
      for (const number of [a[1], a[4], ...a[3], ...a[7].map((r) => r[2])]) own.add(number);
    }
  }
  return { shared, questions };
}

let sought = { text: "", hits: null };
function searched() { // numbers of the texts that hold what is sought; null without a search
  const wanted = chosen.search.trim().toLowerCase();
  if (!wanted) return null;
  haystack ||= { low: data.strings.map((string) => string.toLowerCase()), of: groups.map(texts) };
  if (sought.text !== wanted || !sought.hits) {
    const hits = new Set();
    haystack.low.forEach((string, i) => { if (string.includes(wanted)) hits.add(i); });
    sought = { text: wanted, hits };
  }
  return sought.hits;
}
const meet = (set, hits) => { for (const value of set) if (hits.has(value)) return true; return false; };

function matchesAnswer(a) { // a compact answer to a final question
  if (chosen.answers === "wrong" && !isWrong(a[5])) return false;
  if (chosen.answers === "right" && (a[5] === null || isWrong(a[5]))) return false;
  if (chosen.answers === "missing" && a[5] !== null) return false;
  return !chosen.failure || S(a[6]) === chosen.failure;
}

// The final questions (numbers of their texts) of a group that the filters let through; null when the group is out.
function matching(group) {
  if (chosen.where && (chosen.where === "held-out") !== (group.where === null)) return null;
  if (chosen.source && group.source !== chosen.source) return null;
  const hits = searched(), own = hits && haystack.of[group.index];
  // What is in the name, or read or written on the way, concerns all of its questions.
  const whole = !hits || group.name.toLowerCase().includes(chosen.search.trim().toLowerCase()) || meet(own.shared, hits);
  const found = new Set();
  let asked = false;
  for (const column of group.columns) {
    if (group.where === null && chosen.policy && column.label !== chosen.policy) continue;
    for (const a of column.answers) {
      if (a[0] !== null) continue;
      asked = true;
      if (matchesAnswer(a) && (whole || meet(own.questions.get(a[1]), hits))) found.add(a[1]);
    }
  }
  if (found.size) return found;
  return !asked && !chosen.answers && !chosen.failure && whole ? found : null;
}

const PAGE = 100;
let shown = [], limit = PAGE;
function refresh() {
  shown = [];
  let questions = 0;
  for (const group of groups) {
    const found = matching(group);
    if (!found) continue;
    shown.push([group, found]);
    questions += found.size;
  }
  if (chosen.sort === "instructive") shown.sort((a, b) => b[0].instruction - a[0].instruction || a[0].index - b[0].index);
  limit = PAGE;
  $("count").textContent = `${questions.toLocaleString("en")} questions in ${shown.length.toLocaleString("en")} of ${groups.length.toLocaleString("en")} episodes match.`;
  drawList();
  openHash(null, false);
}

function drawList() {
  const turned = (group) => {
    const { better, worse } = group.turned || {};
    return [better ? ` · ${better} to right` : "", worse ? ` · ${worse} to wrong` : ""].join("");
  };
  $("list").replaceChildren(...shown.slice(0, limit).map(([group, found]) => el("li", {},
    el("a", { href: `#g${group.index}`, "aria-current": open === group ? "true" : null },
      text(group.name), el("span", {}, String(found.size)), el("small", {}, `${whereName(group.where)}${turned(group)} · ${line(group.source, 40)}`)))));
  $("list-more").hidden = shown.length <= limit;
  $("list-more").textContent = `Show ${Math.min(PAGE, shown.length - limit)} more of ${shown.length - limit}`;
}
$("list-more").addEventListener("click", () => { limit += PAGE; drawList(); });
$("filters").addEventListener("submit", (event) => event.preventDefault());

function markCurrent(group) {
  const at = shown.findIndex(([other]) => other === group);
  if (at >= limit) {
    limit = at + PAGE;
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

// --- links and keys --------------------------------------------------------------------------------------------

// Shows what the address names, or, after a change of the filters (`move` false), what is left of it.
function openHash(item, move = true) {
  const place = placeOf(location.hash);
  const parts = /^g(\d+)(?:c(\d+)([tq])(\d+))?$/.exec(place);
  let entry = parts && groups[+parts[1]] ? [groups[+parts[1]], matching(groups[+parts[1]])] : null;
  if (!entry || (!move && !entry[1])) entry = shown.find(([group]) => group === open) || shown[0] || [null, null];
  const [group, found] = entry;
  if (parts && parts[2] !== undefined && group) hidden.delete(group.columns[+parts[2]]?.label);
  if (parts && parts[3] === "q" && group && found) found.add(group.columns[+parts[2]]?.answers.filter((a) => a[0] === null)[+parts[4]]?.[1]);
  drawEpisode(group, found, parts && parts[3] === "t" ? +parts[4] : 0);
  for (const node of document.querySelectorAll("td.here, .hit")) node.classList.remove("here", "hit");
  if (!parts || !move) return;
  const cell = $(place);
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
  const link = event.target.closest?.("a[href^='#']");
  if (!link) return;
  wanted = link.dataset?.item ?? null;
  const href = link.getAttribute("href");
  if (href === `#${placeOf(location.hash)}` && /^#g\d/.test(href)) openHash(wanted);
});
addEventListener("hashchange", () => {
  if (readAddress()) applyChosen();
  openHash(wanted);
  wanted = null;
  keepAddress();
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    $("search")?.focus();
  } else if (event.key === "j" || event.key === "k") {
    const at = shown.findIndex(([group]) => group === open);
    const next = shown[Math.max(0, Math.min(shown.length - 1, at + (event.key === "j" ? 1 : -1)))];
    if (!next) return;
    history.pushState(null, "", addressOf(`g${next[0].index}`)); // fires no hashchange: a quick second key starts from here
    openHash();
  }
});
