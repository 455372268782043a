"""The script of a report: position charts can be zoomed and moved by mouse, keys and buttons; no network.

It reads the candles from the pictures of the page. Without it the pictures show the whole stretch.
"""

SCRIPT = """\
"use strict";
(() => {
const LEFT = 70, RIGHT = 976, TOP = 8, PRICE = 270, BOTTOM = 400, LEAST = 12;  // as in candles.py
const MINUTE = 60000, MINUTES = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7200, 14400, 43200];
const pad = value => String(value).padStart(2, "0");
function formatTime(ms, isLong) {
  const date = new Date(ms);
  const day = `${date.getUTCFullYear()}-${pad(date.getUTCMonth() + 1)}-${pad(date.getUTCDate())}`;
  const time = `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}`;
  return isLong ? `${day} ${time}` : time === "00:00" ? day : time;
}
function listTicks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const digits = Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const format = new Intl.NumberFormat("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits});
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push([i * step, format.format(i * step)]);
  return ticks;
}
function write(x, y, anchor, text) {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}">${text.replace("-", "\\u2212")}</text>`;
}
function readWicks(view) {
  const use = view.querySelector("use");
  const source = use ? document.getElementById(use.getAttribute("href").slice(1)) : view;
  const paths = [...source.querySelectorAll(".wick")].map(path => path.getAttribute("d"));
  return [...paths.join("").matchAll(/M([\\d.]+) ([\\d.]+)V([\\d.]+)/g)].map(match => match.slice(1).map(Number));
}
function setUp(chart) {
  const views = [...chart.querySelectorAll("svg.view")], region = chart.parentElement;
  const [bars, start, step, low, high] = ["bars", "start", "step", "low", "high"].map(name => +chart.dataset[name]);
  let from = 0, to = bars, wicks = null, grip = null;
  function fitPrice() {
    wicks ??= readWicks(views[0]);
    const seen = to - from < bars ? wicks.filter(([x]) => x >= from && x <= to) : [];
    if (!seen.length) return [0, PRICE];
    const top = Math.min(...seen.map(wick => wick[1])), bottom = Math.max(...seen.map(wick => wick[2]));
    const space = 0.05 * (bottom - top) + 0.2;
    return [top - space, bottom - top + 2 * space];
  }
  function drawTicks(top, tall) {
    const price = y => high - (high - low) * y / PRICE;
    const ys = listTicks(price(top + tall), price(top), 7).map(([value, label]) => {
      const y = TOP + ((high - value) / (high - low) * PRICE - top) / tall * PRICE;
      return `<path class="grid" d="M${LEFT} ${y}H${RIGHT}"/>` + write(LEFT - 4, y + 4, "end", label);
    });
    const first = start + from * step, span = (to - from) * step, xs = [];
    const every = MINUTE * (MINUTES.find(each => span / each / MINUTE <= 8) ?? Math.ceil(span / MINUTE / 8));
    for (let at = Math.ceil(first / every) * every; at <= first + span; at += every) {
      const x = LEFT + (at - first) / span * (RIGHT - LEFT);
      xs.push(`<path class="grid" d="M${x} ${TOP}V${BOTTOM}"/>` + write(x, BOTTOM + 14, "middle", formatTime(at)));
    }
    chart.querySelector("g.y").innerHTML = ys.join("");
    chart.querySelector("g.x").innerHTML = xs.join("");
    const ends = [first, first + span].map(ms => formatTime(ms, true));
    status.textContent = `${ends[0]} to ${ends[1]} UTC: ${Math.round(to - from)} of ${Math.round(bars)} bars`;
  }
  function move(center, width) {
    const size = Math.min(bars, Math.max(LEAST, width));
    from = Math.min(Math.max(0, center - size / 2), bars - size);
    to = from + size;
    const [top, tall] = fitPrice();
    views.forEach((view, i) => {
      const [y, height] = i ? [0, view.viewBox.baseVal.height] : [top, tall];
      view.setAttribute("viewBox", `${from} ${y} ${size} ${height}`);
    });
    drawTicks(top, tall);
  }
  const middle = () => (from + to) / 2, pan = share => move(middle() + share * (to - from), to - from);
  const zoom = (factor, center = middle()) => move(center + (middle() - center) * factor, (to - from) * factor);
  function find(event) {
    const box = views[0].getBoundingClientRect();
    return from + (event.clientX - box.left) / box.width * (to - from);
  }
  const actions = [
    ["+", "Zoom in", () => zoom(0.5)],
    ["\\u2212", "Zoom out", () => zoom(2)],
    ["\\u25c0", "Earlier", () => pan(-0.25)],
    ["\\u25b6", "Later", () => pan(0.25)],
    ["all", "Show all bars", () => move(bars / 2, bars)],
  ];
  const keys = {"+": 0, "=": 0, "-": 1, ArrowLeft: 2, ArrowRight: 3, Home: 4, "0": 4};
  const controls = document.createElement("div"), status = document.createElement("output");
  controls.className = "controls";
  for (const [text, label, act] of actions) {
    const button = document.createElement("button");
    Object.assign(button, {type: "button", textContent: text, title: label, onclick: act});
    button.setAttribute("aria-label", label);
    controls.append(button);
  }
  status.textContent = "or keys + \\u2212 \\u2190 \\u2192 0, drag, double click";
  controls.append(status);
  region.before(controls);
  region.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    actions[keys[event.key]][2]();
  });
  region.addEventListener("wheel", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, find(event));
  }, {passive: false});
  chart.addEventListener("dblclick", event => zoom(0.5, find(event)));
  chart.addEventListener("pointerdown", event => {
    if (event.pointerType === "mouse" && event.button === 0) grip = find(event);
  });
  window.addEventListener("pointermove", event => {
    if (grip !== null && event.buttons) move(middle() + grip - find(event), to - from);
  });
  window.addEventListener("pointerup", () => { grip = null; });
}
for (const chart of document.querySelectorAll("svg.zoom")) setUp(chart);
})();
"""
