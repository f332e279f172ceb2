"""How the page looks, by day and by night and on a phone, and what it does when it is pointed at."""

STYLE = """
:root { color-scheme: light dark; --ink: #22262b; --faint: #646b75; --paper: #fff; --card: #f5f6f8; --edge: #dfe2e6;
  --good: #00734e; --bad: #b34700; --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a3458a; --c4: #7f7f7f;
  --c5: #b07c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9aa2ad; --paper: #16191d; --card: #1f2328;
  --edge: #343a42; --good: #4cc9a0; --bad: #f2955a; --c0: #56b4e9; --c1: #f2955a; --c2: #4cc9a0; --c3: #dd92c5;
  --c4: #a8adb3; --c5: #e6b33c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .25rem 0; }
.faint, summary, figcaption + p { color: var(--faint); }
.tiles, .charts { display: grid; gap: .75rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); margin: 1.25rem 0 0; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
.tiles div, figure, article { background: var(--card); border: 1px solid var(--edge); border-radius: .5rem;
  padding: .75rem .9rem; margin: 0; min-width: 0; }
.tiles dt { color: var(--faint); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; line-height: 1.3; }
.tiles dd + dd { font-size: .85rem; font-weight: 400; color: var(--faint); }
figure { position: relative; }
figcaption { font-weight: 600; }
svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
svg text { fill: var(--faint); font-size: 12px; }
.grid { stroke: var(--edge); fill: none; }
.rule { stroke: var(--faint); stroke-dasharray: 3 3; fill: none; }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.line.pale { opacity: .3; stroke-width: 1; }
circle { fill: currentColor; }
circle.small { opacity: 0; }
circle.on { opacity: 1; stroke: var(--paper); stroke-width: 1.5; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 0; padding: 0; font-size: .8rem; }
.legend li::before { content: ""; display: inline-block; width: .9rem; height: .2rem; margin-right: .35rem;
  vertical-align: middle; background: currentColor; }
.tip { position: absolute; bottom: 100%; transform: translateX(-50%); max-width: 16rem; width: max-content;
  white-space: pre-line; background: var(--ink); color: var(--paper); font-size: .8rem; padding: .3rem .55rem;
  border-radius: .35rem; pointer-events: none; z-index: 1; }
.tip[hidden] { display: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--edge); font-weight: 400;
  vertical-align: top; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--faint); }
.facts td { text-align: left; overflow-wrap: anywhere; }
.facts th { width: 35%; color: var(--faint); }
details { margin-top: .5rem; }
details .wide { max-height: 20rem; overflow-y: auto; }
summary { cursor: pointer; font-size: .85rem; }
article { margin-bottom: .75rem; }
article blockquote { margin: 0; white-space: pre-wrap; max-height: 14rem; overflow-y: auto; unicode-bidi: plaintext; }
article dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .9rem; margin: .6rem 0 0; font-size: .9rem; }
article dt { color: var(--faint); }
article dd { margin: 0; white-space: pre-wrap; unicode-bidi: plaintext; }
.good { color: var(--good); } .bad { color: var(--bad); }
@media (max-width: 30rem) {
  svg text { font-size: 17px; }
  article dl { grid-template-columns: 1fr; }
  article dd { margin-bottom: .3rem; }
}
"""

SCRIPT = """
for (const figure of document.querySelectorAll(".chart")) {
  const svg = figure.querySelector("svg"), tip = figure.querySelector(".tip"), rule = figure.querySelector(".rule");
  const points = [...svg.querySelectorAll("circle")], x = (point) => point.cx.baseVal.value;
  const stops = [...new Set(points.map(x))].sort((a, b) => a - b);
  let at = -1;
  const show = (k) => {
    at = k;
    const shown = points.filter((point) => x(point) === stops[at]);
    points.forEach((point) => point.classList.toggle("on", shown.includes(point)));
    rule.setAttribute("visibility", shown.length ? "visible" : "hidden");
    tip.hidden = !shown.length;
    if (!shown.length) return;
    rule.setAttribute("transform", `translate(${stops[at]} 0)`);
    tip.textContent = shown.map((point) => point.dataset.say).join("\\n");
    const box = figure.getBoundingClientRect(), place = svg.getScreenCTM();
    const half = tip.offsetWidth / 2, left = place.a * stops[at] + place.e - box.left;
    tip.style.left = `${Math.min(Math.max(left, half), Math.max(box.width - half, half))}px`;
    tip.style.bottom = `${box.bottom - svg.getBoundingClientRect().top}px`;
  };
  const point = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = (k) => Math.abs(stops[k] - place.x);
    show(stops.reduce((best, _, k) => (far(k) < far(best) ? k : best), 0));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "touch" || show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.min(Math.max(at + step, 0), stops.length - 1));
  });
}
"""
