// --- curves ----------------------------------------------------------------------------------------------------

DEFAULTS.smooth = chosen.smooth = "0";
DEFAULTS.log = chosen.log = "auto"; // auto: where the first steps would flatten the rest
const opened = new Set(); // titles of charts whose numbers are shown

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(value);
  return found;
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) found.push(10 ** power);
  const every = Math.ceil(found.length / 5);
  return found.filter((value, i) => i % every === 0 && value >= low * 0.999 && value <= high * 1.001);
}

const isZero = (series) => series.y.every((y) => y === 0 || y === null) && series.y.some((y) => y === 0);

// A centred mean over 2 * reach + 1 points, of those that are there.
function smoothed(y, reach) {
  if (!reach) return y;
  return y.map((value, i) => {
    if (value === null) return null;
    const near = y.slice(Math.max(0, i - reach), i + reach + 1).filter((v) => v !== null);
    return near.reduce((a, b) => a + b, 0) / near.length;
  });
}

// Whether a first step is so far above the rest that they would be a flat line.
function isFlattened(series) {
  const all = series.flatMap((s) => s.y.filter((v) => v !== null));
  if (all.length < 5 || all.some((v) => v <= 0)) return false;
  const sorted = [...all].sort((a, b) => a - b);
  const most = sorted.at(-1), ninth = sorted[Math.floor(0.9 * (sorted.length - 1))];
  return most > 8 * ninth && series.some((s) => s.y.slice(0, Math.max(1, Math.ceil(s.y.length / 10))).includes(most));
}

function chart(spec, span) {
  const W = 420, H = 210, L = 50, R = 14, T = 10, B = 24;
  const zeros = spec.series.filter(isZero);
  const series = spec.series.filter((s) => !isZero(s));
  const drawn = series.length ? series : spec.series;
  const all = drawn.flatMap((s) => [...s.y, ...(s.low || []), ...(s.high || [])].filter((v) => v !== null));
  const xs = drawn.flatMap((s) => s.x);
  if (!all.length) return null;
  const canLog = all.every((v) => v > 0) && !spec.range;
  const isLog = canLog && (chosen.log === "on" || (chosen.log === "auto" && isFlattened(drawn)));
  let [low, high] = spec.range || [Math.min(...all), Math.max(...all)];
  if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
  const scale = isLog ? Math.log : (v) => v;
  const [first, last] = span;
  const X = (x) => L + ((x - first) / (last - first)) * (W - L - R);
  const Y = (y) => T + (1 - (scale(y) - scale(low)) / (scale(high) - scale(low))) * (H - T - B);
  const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${spec.title}: ${drawn.map((s) => `${line(s.name, 40)} ${short(s.y.at(-1))}`).join(", ")} at the end` });
  for (const y of isLog ? decades(low, high) : ticks(low, high, 4)) {
    svg.append(shape("line", { class: "grid", x1: L, x2: W - R, y1: Y(y), y2: Y(y) }));
    svg.append(shape("text", { x: L - 6, y: Y(y) + 4, "text-anchor": "end" }, plain(Math.abs(y) < (high - low) * 1e-6 && !isLog ? 0 : y)));
  }
  for (const x of ticks(first, last, Math.min(5, last - first))) {
    if (Number.isInteger(x)) svg.append(shape("text", { x: X(x), y: H - 6, "text-anchor": "middle" }, x.toLocaleString("en")));
  }
  const legend = el("ul", { class: "legend" });
  const readings = [];
  const path = (s, ys) => {
    let d = "", pen = "M";
    ys.forEach((y, k) => {
      if (y === null) return void (pen = "M");
      d += `${pen}${X(s.x[k]).toFixed(1)},${Y(y).toFixed(1)}`;
      pen = "L";
    });
    return d;
  };
  drawn.forEach((s, i) => {
    const paint = `var(--c${(s.color ?? i) % 8})`;
    const ys = s.dash ? s.y : smoothed(s.y, Math.round((Number(chosen.smooth) * s.y.length) / 100));
    if (s.low) { // its interval: a band, or a bar at a single point
      const there = s.x.map((x, k) => [x, s.low[k], s.high[k]]).filter(([, a]) => a !== null && a !== undefined);
      const d = there.map(([x, a], k) => `${k ? "L" : "M"}${X(x).toFixed(1)},${Y(a).toFixed(1)}`).join("")
        + there.reverse().map(([x, , b]) => `L${X(x).toFixed(1)},${Y(b).toFixed(1)}`).join("");
      if (there.length > 1) svg.append(shape("path", { class: "band", d: `${d}Z`, fill: paint }));
      if (there.length <= 12) for (const [x, a, b] of there) svg.append(shape("line", { class: "whisker", x1: X(x), x2: X(x), y1: Y(a), y2: Y(b), stroke: paint }));
    }
    if (ys !== s.y) svg.append(shape("path", { class: "series raw-line", d: path(s, s.y), stroke: paint }));
    const curve = shape("path", { class: "series", d: path(s, ys), stroke: paint });
    if (s.dash) curve.setAttribute("stroke-dasharray", "2 4");
    svg.append(curve);
    if (s.x.length <= 12 && !s.dash) {
      s.y.forEach((y, k) => y !== null && svg.append(shape("circle", { cx: X(s.x[k]), cy: Y(y), r: 2.6, fill: paint })));
    }
    const reading = el("b", {}, short(s.y.at(-1)));
    readings.push([s, reading]);
    legend.append(el("li", { style: `--s:${paint}`, class: s.dash ? "dash" : "" }, text(s.name), " ", reading));
  });
  const cursor = shape("line", { class: "cursor", y1: T, y2: H - B, visibility: "hidden" });
  const label = shape("text", { y: T + 8, visibility: "hidden" });
  svg.append(cursor, label);
  const read = (x) => {
    const near = xs.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a));
    for (const [s, reading] of readings) {
      const k = s.x.reduce((best, value, i) => (value <= near ? i : best), 0);
      reading.textContent = short(s.y[k]);
    }
    for (const [name, value] of [["x1", X(near)], ["x2", X(near)]]) cursor.setAttribute(name, value);
    label.setAttribute("x", X(near) + (near > (first + last) / 2 ? -5 : 5));
    label.setAttribute("text-anchor", near > (first + last) / 2 ? "end" : "start");
    label.textContent = `after ${many(near, "step")}`;
    for (const node of [cursor, label]) node.setAttribute("visibility", "visible");
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    read(first + ((((event.clientX - box.left) / box.width) * W - L) / (W - L - R)) * (last - first));
  });
  svg.addEventListener("pointerleave", () => {
    for (const node of [cursor, label]) node.setAttribute("visibility", "hidden");
    for (const [s, reading] of readings) reading.textContent = short(s.y.at(-1));
  });
  const caption = el("figcaption", {}, spec.title, spec.note ? el("small", {}, spec.note) : null, el("small", {}, el("code", {}, text(spec.logged)), isLog ? " · logarithmic scale" : ""));
  const folded = series.length && zeros.length ? el("p", { class: "zeros" }, `Always 0: ${zeros.map((s) => line(s.name, 40)).join(", ")}`) : null;
  return el("figure", {}, caption, svg, legend, folded, numbers(spec));
}

function numbers(spec) {
  const box = el("div", { tabindex: "0", role: "region", "aria-label": `Numbers of ${spec.title}` });
  const fill = (event) => {
    opened[event.target.open ? "add" : "delete"](spec.title);
    if (box.firstChild) return;
    const steps = [...new Set(spec.series.flatMap((s) => s.x))].sort((a, b) => a - b);
    const columns = spec.series.map((s) => new Map(s.x.map((x, i) => [x, [s.y[i], s.low?.[i], s.high?.[i]]])));
    const head = el("tr", {}, el("th", { scope: "col" }, "step"), ...spec.series.map((s) => el("th", { scope: "col" }, text(s.name))));
    const cell = ([y, low, high]) => `${y ?? "–"}${low === undefined || low === null ? "" : ` (${digits(low)} to ${digits(high)})`}`;
    const rows = steps.map((x) => el("tr", {}, el("th", { scope: "row" }, String(x)), ...columns.map((c) => el("td", {}, c.has(x) ? cell(c.get(x)) : ""))));
    box.append(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
  };
  return el("details", { class: "numbers", open: opened.has(spec.title), ontoggle: fill }, el("summary", {}, "numbers"), box);
}

function drawCharts() {
  const xs = data.charts.flatMap((spec) => spec.series.flatMap((s) => [s.x[0], s.x.at(-1)])).filter((x) => x !== undefined);
  const first = Math.min(...xs), span = [first, Math.max(first + 1, ...xs)]; // the same for all: they stand under each other
  const isShown = (spec) => !spec.more && !spec.series.every(isZero);
  const main = data.charts.filter(isShown).map((spec) => chart(spec, span)).filter(Boolean);
  if (!main.length) main.push(el("p", { class: "note" }, "No training step was logged."));
  $("charts").replaceChildren(...main);
  const others = data.charts.filter((spec) => !isShown(spec)), zeros = others.filter((spec) => spec.series.every(isZero));
  $("more").hidden = !others.length;
  const fill = () => {
    if (!$("more").open) return;
    const drawn = others.filter((spec) => !zeros.includes(spec)).map((spec) => chart(spec, span)).filter(Boolean);
    $("more").querySelector(".charts").replaceChildren(...drawn);
    $("more").querySelector(".zeros").textContent = zeros.length ? `Always 0: ${zeros.map((spec) => `${spec.title} (${spec.logged})`).join(", ")}.` : "";
  };
  $("more").ontoggle = fill;
  fill();
}

(function chartControls() {
  const pick = (name, title, options) => {
    const select = el("select", { name, onchange: () => { choose(name, select.value); drawCharts(); } }, ...options.map(([value, label]) => el("option", { value }, label)));
    return el("label", {}, title, select);
  };
  $("chart-controls").append(
    pick("smooth", "Smoothing", [["0", "none"], ["2", "a little"], ["6", "much"]]),
    pick("log", "Scale", [["auto", "logarithmic where needed"], ["off", "linear"], ["on", "logarithmic"]]),
  );
  $("chart-controls").addEventListener("submit", (event) => event.preventDefault());
})();
