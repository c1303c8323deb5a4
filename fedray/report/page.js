"use strict";
// Draws the charts. The legend switches series in all of them. Colours are CSS properties.
const { charts, series } = JSON.parse(document.getElementById("data").textContent);
const boxes = [...document.querySelectorAll("aside input")];
const tooltip = document.getElementById("tooltip");
const views = {};

const MOST_LINES = 10;

function showTooltip(event, heading, rows) {
  tooltip.replaceChildren();
  const title = document.createElement("strong");
  title.textContent = heading;
  const table = document.createElement("table");
  for (const { cells, colour, nearest } of rows) {
    const row = table.insertRow();
    row.className = nearest ? "nearest" : "";
    cells.forEach((text, position) => {
      const cell = row.insertCell();
      if (position === 0 && colour) {
        const swatch = document.createElement("i");
        swatch.style.background = colour;
        cell.append(swatch);
      }
      cell.append(text);
    });
  }
  tooltip.append(title, table);
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight ? event.clientY - 14 - height : event.clientY + 14;
  tooltip.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tooltip.style.top = `${Math.max(4, top)}px`;
}

// Shows the values of the mark under the pointer: an object of names and values, with the heading under the name " ".
function showMark(handler, event, item, value) {
  if (!value || typeof value !== "object") {
    if (!event.target.closest("[data-follows]")) tooltip.hidden = true;
    return;
  }
  const { " ": heading = "", ...rest } = value;
  showTooltip(event, heading, Object.entries(rest).map((cells) => ({ cells })));
}

const written = {
  percent: (value) => `${(100 * value).toFixed(1)} %`,
  plain: (value) => String(Number(value.toPrecision(4))),
};

// Shows the point of a curve nearest to the pointer, and the other curves at the same x. A mark for each of thousands
// of points would be slow.
function followCurves(element, name, view) {
  element.dataset.follows = "";
  const rows = view.data("rows");
  const { over, percent } = charts[name];
  const say = percent ? written.percent : written.plain;
  const dot = Object.assign(document.createElement("div"), { className: "dot", hidden: true });
  const line = Object.assign(document.createElement("div"), { className: "line", hidden: true });
  element.append(line, dot);
  const leave = () => { dot.hidden = line.hidden = tooltip.hidden = true; };
  element.addEventListener("pointerleave", leave);
  for (const kind of ["pointermove", "pointerdown"]) element.addEventListener(kind, (event) => {
    const svg = element.querySelector("svg").getBoundingClientRect();
    const [left, top] = view.origin();
    const x = view.scale("x"), y = view.scale("y"), shown = new Set(view.signal("shown"));
    const at = [event.clientX - svg.left - left, event.clientY - svg.top - top];
    let nearest = null, least = Infinity;
    for (const row of rows) {
      if (!shown.has(row.series)) continue;
      const distance = (x(row.x) - at[0]) ** 2 + (y(row.y) - at[1]) ** 2;
      if (distance < least) [nearest, least] = [row, distance];
    }
    if (!nearest || at[0] < -20 || at[1] < -20 || at[1] > view.height() + 20) return leave();
    const box = element.getBoundingClientRect();
    const px = svg.left - box.left + left + x(nearest.x), py = svg.top - box.top + top + y(nearest.y);
    Object.assign(dot.style, { left: `${px}px`, top: `${py}px`, background: series[nearest.series].colour });
    Object.assign(line.style, { left: `${px}px`, top: `${svg.top - box.top + top}px`, height: `${view.height()}px` });
    dot.hidden = py < top || py > top + view.height();
    line.hidden = false;
    const beside = rows.filter((row) => row.x === nearest.x && row !== nearest && shown.has(row.series));
    beside.sort((a, b) => b.y - a.y);
    const lines = [nearest, ...beside.slice(0, MOST_LINES - 1)].sort((a, b) => b.y - a.y);
    const table = lines.map((row) => ({
      cells: [series[row.series].label, row.low === null ? say(row.y) : `${say(row.y)}  (${say(row.low)} to ${say(row.high)})`],
      colour: series[row.series].colour,
      nearest: row === nearest,
    }));
    showTooltip(event, `${over} ${Number(nearest.x.toPrecision(4)).toLocaleString("en")}`, table);
  });
}

async function draw(name) {
  const element = document.getElementById(name);
  // Errors only: Vega warns about each chart that shows nothing, for example one whose bands are off.
  const options = { mode: "vega", renderer: "svg", actions: false, tooltip: showMark, logLevel: 1 };
  const { view } = await vegaEmbed(element, charts[name].vega, options);
  views[name] = view;
  if (charts[name].over) followCurves(element, name, view);
}

function shownSeries() {
  return boxes.filter((box) => box.checked).map((box) => box.value);
}

async function switchSeries() {
  const shown = shownSeries();
  document.getElementById("on").textContent = `${shown.length} of ${boxes.length} on`;
  let shownAgain = false;
  await Promise.all(Object.entries(views).filter(([name]) => charts[name].follows).map(([name, view]) => {
    const element = document.getElementById(name);
    if (element.hidden && shown.length) shownAgain = true;
    element.hidden = shown.length === 0;
    element.nextElementSibling.hidden = shown.length > 0;
    return view.signal("shown", shown).runAsync();
  }));
  if (shownAgain) dispatchEvent(new Event("resize")); // a chart takes its width from its element, which had none while it was hidden
}

function focusSeries(key) {
  for (const [name, view] of Object.entries(views)) if (charts[name].follows) view.signal("focus", key).run();
}

function switchAll(chosen) {
  for (const box of boxes) box.checked = chosen(box);
  switchSeries();
}

async function start() {
  const legend = document.getElementById("legend");
  if (legend) {
    legend.open = matchMedia("(min-width: 1040px)").matches;
    document.getElementById("all").addEventListener("click", () => switchAll(() => true));
    document.getElementById("none").addEventListener("click", () => switchAll(() => false));
    document.getElementById("first")?.addEventListener("click", () => switchAll((box) => "first" in box.dataset));
    for (const box of boxes) {
      const label = box.closest("label");
      box.addEventListener("change", switchSeries);
      label.addEventListener("pointerenter", () => focusSeries(box.checked ? box.value : ""));
      label.addEventListener("pointerleave", () => focusSeries(""));
      box.addEventListener("focus", () => box.matches(":focus-visible") && focusSeries(box.checked ? box.value : ""));
      box.addEventListener("blur", () => focusSeries(""));
    }
  }
  await Promise.all(Object.keys(charts).map(draw));
  if (legend) await switchSeries();
  document.documentElement.dataset.ready = "true";
}

start();
