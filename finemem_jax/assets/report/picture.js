// --- the picture of an episode: chunks, items, questions, and the way back of the credit -----------------------

const ROWS = 40; // items drawn at once; those that no question found come last

// Every item that memory ever held: where it was written, changed and lost, in the order of its first write.
function itemLives(column) {
  const lives = new Map();
  column.steps.forEach((raw, t) => {
    const step = readStep(raw);
    for (const id of step.removed) if (lives.has(S(id))) lives.get(S(id)).end = t;
    for (const [id, , content] of step.written) {
      const life = lives.get(S(id));
      if (life && life.end === null) life.writes.push(t);
      else lives.set(S(id), { id: S(id), writes: [t], end: null, found: 0, credit: 0, text: "" });
      lives.get(S(id)).text = S(content);
    }
  });
  return lives;
}

// The steps that are paid for an item; what it said before the first step is nobody's.
const payees = (item) => (data.flow.shared ? item.writers : [item.step]).filter((t) => t >= 0);

// The ways of credit: from a final question through an item to the steps that wrote it.
function creditWays(finals) {
  const ways = [];
  finals.forEach((answer, q) => answer.retrieved.forEach((item, i) => {
    const amount = answer.flow ? answer.flow[2][i] ?? 0 : 0;
    for (const t of payees(item)) ways.push({ q, id: item.id, t, amount: amount / payees(item).length });
  }));
  return ways;
}

function picture(group, column) {
  const finals = column.answers.filter((a) => a[0] === null).map(readAnswer);
  const lives = itemLives(column), ways = creditWays(finals);
  for (const way of ways) {
    const life = lives.get(way.id);
    if (life) { life.found += 1; life.credit += way.amount; }
  }
  const ranked = [...lives.values()].sort((a, b) => (b.found > 0) - (a.found > 0) || b.credit - a.credit);
  const kept = new Set((chosen.all ? ranked : ranked.slice(0, ROWS)).map((life) => life.id));
  const items = [...lives.values()].filter((life) => kept.has(life.id));
  const count = column.steps.length, room = Math.max(360, $("episode").clientWidth - 4);
  const WIDE = Math.max(200, Math.min(420, room * 0.38)), dx = Math.max(26, Math.min(150, (room - WIDE - 130) / Math.max(count, 1)));
  const L = 10, TOP = 58, ROW = 30, end = L + count * dx + 8, Q = end + 100;
  const H = TOP + Math.max(items.length, finals.length, 1) * ROW + 14, W = Q + WIDE + 10;
  const X = (t) => L + (t + 0.5) * dx;
  const rowOf = new Map(items.map((life, i) => [life.id, TOP + i * ROW + 20]));
  const askedAt = (q) => TOP + (q + 0.5) * Math.max(ROW, (H - TOP - 14) / Math.max(finals.length, 1));
  const most = Math.max(1e-9, ...ways.map((way) => Math.abs(way.amount)));
  const svg = shape("svg", { class: "picture", viewBox: `0 0 ${W} ${H}`, width: W, height: H, style: `--ribbon:${color("evidence")}`, role: "group", "aria-label": "Where the credit of each question went; arrow keys go through steps, items and questions" });
  const nodes = [], ribbons = [];
  for (const way of ways) {
    const y = rowOf.get(way.id);
    if (y === undefined || !(way.t < count)) continue;
    const turn = (Q - end) * 0.55, d = `M${Q},${askedAt(way.q).toFixed(1)}C${Q - turn},${askedAt(way.q).toFixed(1)} ${end + turn},${y} ${end},${y}L${X(way.t).toFixed(1)},${y}`;
    const ribbon = shape("path", { class: `ribbon${way.amount ? way.amount < 0 ? " minus" : "" : " none"}`, d, "stroke-width": way.amount ? (1.5 + 7 * Math.abs(way.amount) / most).toFixed(2) : 1 });
    ribbons.push([way, ribbon]);
    svg.append(ribbon);
  }
  const node = (kind, key, href, said, ...shapes) => {
    const link = shape("a", { href, class: `node ${kind}`, tabindex: "-1", "aria-label": said }, ...shapes);
    nodes.push({ kind, key, link, said });
    svg.append(link);
  };
  svg.append(shape("text", { x: L, y: 15 }, "steps, and the evidence each is paid"), shape("text", { x: Q, y: 15 }, "final questions"));
  const into = stepCredit(column, finals);
  for (let t = 0; t < count; t += 1) {
    const paid = into ? into[t] : null;
    node("step", t, `#g${group.index}c${column.index}t${t}`, `Step ${t}${paid === null ? "" : `: ${signed(paid)}`}. ${line(chunkText(group, column.steps[t], t), 100)}`,
      shape("rect", { x: X(t) - dx / 2 + 1, y: 22, width: dx - 2, height: 28, rx: 3 }),
      shape("text", { x: X(t), y: dx > 40 ? 34 : 40, "text-anchor": "middle", class: "strong" }, String(t)),
      paid === null || dx <= 40 ? null : shape("text", { x: X(t), y: 46, "text-anchor": "middle" }, signed(paid)));
  }
  for (const life of items) {
    const y = rowOf.get(life.id), from = X(life.writes[0]), to = life.end === null ? end : X(life.end);
    const said = `Item ${line(life.id, 20)}: ${line(life.text, 120)}. Written in step ${life.writes[0]}${life.writes.length > 1 ? `, changed in ${life.writes.slice(1).join(", ")}` : ""}${life.end === null ? "" : `, removed in step ${life.end}`}; retrieved ${many(life.found, "time")}${life.credit ? `, ${signed(life.credit)}` : ""}.`;
    const most = Math.max(6, Math.floor((Q - 30 - from) / 6.2));
    node("item", life.id, `#g${group.index}c${column.index}t${life.writes.at(-1)}`, said,
      shape("rect", { class: "hold", x: from - 6, y: y - 20, width: Math.max(26, to - from + 12), height: 28 }),
      shape("line", { x1: from, x2: to, y1: y, y2: y, class: life.end === null ? "life" : "life gone" }),
      ...life.writes.map((t, i) => (i ? shape("path", { class: "change", d: `M${X(t)},${y - 5}l5,5l-5,5l-5,-5Z` }) : shape("circle", { class: "write", cx: X(t), cy: y, r: 4.5 }))),
      life.end === null ? null : shape("path", { class: "lost", d: `M${to - 4},${y - 4}l8,8m0,-8l-8,8` }),
      shape("text", { class: "halo", x: from + 8, y: y - 8 }, line(`${life.id} ${life.text}`, most)));
  }
  finals.forEach((answer, q) => {
    const y = askedAt(q), mark = answer.score === null ? "?" : isWrong(answer.score) ? "✗" : "✓";
    const share = answer.flow ? answer.flow[0] + answer.flow[1] + answer.flow[2].reduce((a, b) => a + b, 0) : null;
    node(`question ${mark === "✗" ? "wrong" : ""}`, q, `#g${group.index}c${column.index}q${q}`, `Question ${q + 1}, ${answer.score === null ? "missing" : isWrong(answer.score) ? "wrong" : "right"}: ${line(answer.question, 120)}${share === null ? "" : ` Its share is ${share.toFixed(3)}.`}`,
      shape("rect", { x: Q, y: y - 13, width: WIDE, height: 26, rx: 3 }),
      shape("text", { x: Q + 7, y: y + 4 }, shape("tspan", { class: "strong" }, `${q + 1} ${mark} `), line(answer.question, Math.floor((WIDE - 40) / 6.4))));
  });
  const reading = el("p", { class: "reading", role: "status" });
  light(svg, nodes, ribbons, reading);
  return pictureBox(group, column, svg, reading, lives.size - items.length, finals);
}

// What is named lights its path; the rest fades. One stop of the tab key, arrows inside.
function light(svg, nodes, ribbons, reading) {
  const rest = "Point at a step, an item or a question to see its path.";
  const show = (found) => {
    svg.classList.toggle("lit", Boolean(found));
    reading.textContent = found ? found.said : rest;
    if (!found) return;
    const kind = found.kind.split(" ")[0], field = { step: "t", item: "id", question: "q" }[kind];
    const on = ribbons.filter(([way]) => way[field] === found.key);
    for (const [, ribbon] of ribbons) ribbon.classList.remove("on");
    for (const [, ribbon] of on) ribbon.classList.add("on");
    for (const other of nodes) {
      const name = { step: "t", item: "id", question: "q" }[other.kind.split(" ")[0]];
      other.link.classList.toggle("on", other === found || on.some(([way]) => way[name] === other.key));
    }
  };
  let touched = null; // a finger has no hovering: its first touch lights, its second follows
  nodes.forEach((each, i) => {
    each.link.addEventListener("click", (event) => {
      if (event.pointerType !== "touch" || touched === each) return;
      event.preventDefault();
      event.stopPropagation();
      touched = each;
      each.link.focus({ preventScroll: true });
      show(each);
    });
    each.link.addEventListener("pointerenter", () => show(each));
    each.link.addEventListener("pointerleave", () => show(null));
    each.link.addEventListener("focus", () => show(each));
    each.link.addEventListener("blur", () => show(null));
    each.link.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = by ? nodes[i + by] : event.key === "Home" ? nodes[0] : event.key === "End" ? nodes.at(-1) : null;
      if (!next) return;
      event.preventDefault();
      each.link.setAttribute("tabindex", "-1");
      next.link.setAttribute("tabindex", "0");
      next.link.focus();
    });
  });
  if (nodes.length) nodes[0].link.setAttribute("tabindex", "0");
  show(null);
}

function pictureBox(group, column, svg, reading, left, finals) {
  const save = el("button", { type: "button", onclick: () => saveSvg(svg, `${group.name} ${column.label}`) }, "Save as SVG");
  const choices = group.columns.map((c, i) => [i, c]).filter(([, c]) => c.steps.length);
  const select = el("select", { name: "picture", onchange: () => { choose("of", select.value); redraw(); } }, ...choices.map(([, c]) => el("option", { value: c.label, selected: c.label === column.label }, c.label)));
  const more = left || chosen.all ? el("button", { type: "button", onclick: () => { choose("all", !chosen.all); redraw(); } }, chosen.all ? "Fewer items" : `All items: ${left} more`) : null;
  const alike = finals.reduce((sum, a) => sum + (a.flow ? a.flow[0] : 0), 0), lost = finals.reduce((sum, a) => sum + (a.flow ? a.flow[1] : 0), 0);
  const known = finals.some((a) => a.flow);
  const said = known ? `${alike ? `All steps alike share ${alike.toFixed(3)} more. ` : ""}${lost ? `${lost.toFixed(3)} is lost. ` : ""}` : "The credit of these records cannot be told. ";
  return el("details", { class: "picture-box", open: true }, el("summary", {}, "Picture: where the credit went"),
    el("div", { class: "tools" }, el("label", {}, "Of", select), more, save),
    el("div", { class: "canvas", tabindex: "0", role: "region", "aria-label": "Picture of the episode" }, svg), reading,
    el("p", { class: "hint" }, said, group.where === null ? data.flow.held_out : data.flow.training));
}

// The picture by itself, with the colours of the page as it is shown.
function saveSvg(svg, name) {
  const copy = svg.cloneNode(true), pairs = [svg, ...svg.querySelectorAll("*")], copies = [copy, ...copy.querySelectorAll("*")];
  copies.forEach((node, i) => {
    const style = getComputedStyle(pairs[i]);
    for (const property of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "paint-order"]) node.style.setProperty(property, style.getPropertyValue(property));
    for (const attribute of ["href", "tabindex", "class"]) node.removeAttribute(attribute);
  });
  copy.setAttribute("xmlns", SVG);
  copy.style.removeProperty("--ribbon");
  copy.style.fontFamily = "sans-serif";
  copy.prepend(shape("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor }));
  const source = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  el("a", { href: source, download: `${name.replace(/[^\w.=-]+/g, "_")}.svg` }).click();
}
