"""The style sheet of a report: colors as variables for light, dark and paper, one column on a phone."""

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f6f7f9; --ink: #1d2833; --soft: #5b6875; --edge: #d5dbe1;
  --c0: #2f6f9f; --c1: #d9822b; --c2: #3b8f5a; --c3: #8a5fa8; --c4: #b3403a;
  --gain: #2f6f9f; --loss: #c4553c; --good: #23744a; --bad: #a8322b; --open: #8a6100;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #12171c; --panel: #1a2128; --ink: #e3e8ed; --soft: #9aa7b4; --edge: #34404b;
    --c0: #6fb1e0; --c1: #f0a860; --c2: #74c794; --c3: #c39ddd; --c4: #e78a82;
    --gain: #6fb1e0; --loss: #e58a72; --good: #74c794; --bad: #f0938b; --open: #e5bc5a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1280px; padding: 0 16px 48px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 24px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 40px 0 8px; padding-bottom: 4px; border-bottom: 2px solid var(--edge); }
h3 { font-size: 1.1rem; margin: 32px 0 8px; }
p { margin: 8px 0; max-width: 80ch; }
a { color: var(--c0); }
nav { margin: 12px 0; display: flex; flex-wrap: wrap; gap: 4px 14px; }
nav a { padding: 4px 0; }
.summary { font-size: 1.15rem; max-width: 70ch; }
.blocks {
  display: grid; gap: 16px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
}
.blocks > .wide { grid-column: 1 / -1; min-width: 0; }
figure {
  margin: 0; padding: 10px; min-width: 0;
  background: var(--panel); border: 1px solid var(--edge); border-radius: 6px;
}
figcaption, caption { font-weight: 600; text-align: left; font-size: .92rem; margin-bottom: 4px; }
.note { color: var(--soft); font-size: .88rem; margin: 4px 0 0; }
.scroll { overflow-x: auto; border: 1px solid var(--edge); border-radius: 6px; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; width: 100%; }
caption { padding: 8px 10px 4px; }
th, td { padding: 4px 10px; text-align: left; vertical-align: top; border-top: 1px solid var(--edge); }
th { font-weight: 600; }
thead th { color: var(--soft); white-space: nowrap; }
td.short, th[scope=row] { white-space: nowrap; }
td.long { min-width: 24ch; }
.verdict { list-style: none; margin: 12px 0; padding: 0; display: grid; gap: 8px; }
.verdict li { padding: 8px 12px; background: var(--panel); border-left: 5px solid var(--open); border-radius: 4px; }
.verdict li.yes { border-left-color: var(--good); }
.verdict li.no { border-left-color: var(--bad); }
.verdict b { display: block; }
.state { font-size: .8rem; font-weight: 600; text-transform: uppercase; letter-spacing: .03em; color: var(--open); }
.yes .state { color: var(--good); }
.no .state { color: var(--bad); }
.controls { display: flex; flex-wrap: wrap; gap: 4px 6px; align-items: center; margin: 4px 0; font-size: .88rem; }
.controls button {
  min-width: 36px; min-height: 32px; font: inherit; color: var(--ink); background: var(--paper);
  border: 1px solid var(--edge); border-radius: 4px;
}
.controls output { color: var(--soft); }
svg[viewBox]:not(.view) { display: block; width: 100%; height: auto; }
svg { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg text { fill: var(--ink); }
.grid { stroke: var(--edge); stroke-width: .7; fill: none; }
.rule { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 2; fill: none; }
.line { fill: none; stroke-width: 1.3; stroke-linejoin: round; }
.line.path { stroke: var(--c0); stroke-width: .8; opacity: .5; }
.line.median { stroke: var(--ink); stroke-width: 1.4; }
.line.thin { stroke-width: .7; opacity: .6; }
.line.key { stroke-width: 3; opacity: 1; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c4 { stroke: var(--c4); }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); }
.dot.c3 { fill: var(--c3); } .dot.c4 { fill: var(--c4); }
.area.under { fill: var(--loss); opacity: .35; }
.whisker { stroke: var(--soft); stroke-width: 1.2; fill: none; }
.gain { fill: var(--gain); } .loss { fill: var(--loss); }
.test { fill: var(--c1); } .other { fill: var(--edge); }
.cell { fill: var(--c0); stroke: var(--edge); }
figure.wide .scroll { border: 0; }
svg.zoom { min-width: 820px; font-size: 12px; }
.view .line, .view .rule, .wick, .order { vector-effect: non-scaling-stroke; }
.wick { fill: none; stroke-width: 1; } .body { fill: none; stroke-width: .7; }
.up { stroke: var(--gain); } .down { stroke: var(--loss); }
.order { fill: none; stroke: var(--ink); stroke-width: 8; stroke-linecap: round; }
.order.long { stroke: var(--good); } .order.short { stroke: var(--bad); }
.order.hole { stroke: var(--panel); stroke-width: 4; }
svg.zoom { cursor: grab; user-select: none; }
@media (max-width: 480px) {
  body { padding: 0 10px 32px; }
  figure { padding: 6px; }
  th, td { padding: 4px 7px; }
}
@media print {
  html { font-size: 11px; }
  body { max-width: none; padding: 0; font-size: 11px; }
  nav, .controls { display: none; }
  svg.zoom { min-width: 0; }
  .blocks { grid-template-columns: 1fr 1fr; gap: 8px; }
  figure, tr, .verdict li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8px; }
  th, td { padding: 2px 4px; }
  thead th, td.short, th[scope=row] { white-space: normal; }
}
"""
