"use strict";
// Learning curves as SVG: one figure for each model and fold, one line for each course. Text is set by textContent only.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420, HEIGHT = 230, LEFT = 52, RIGHT = 12, TOP = 12, BOTTOM = 34;

function svgElement(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function niceStep(range, parts) {
  const raw = range / parts, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
}

function ticks(low, high, parts, whole) {
  let step = niceStep(high - low || 1, parts);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

function drawCurves(curves) {
  const losses = curves.flatMap((curve) => curve.points.map((point) => point[1]));
  let low = Math.min(...losses), high = Math.max(...losses);
  const margin = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.1;
  low -= margin; high += margin;
  const rounds = Math.max(...curves.map((curve) => curve.rounds), 2);
  const x = (round) => LEFT + ((round - 1) / (rounds - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (loss) => TOP + ((high - loss) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const drawing = svgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": described(curves) });
  for (const loss of ticks(low, high, 5, false)) {
    drawing.append(svgElement("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(loss), y2: y(loss) }));
    const text = Number(loss.toPrecision(6)).toString();
    drawing.append(svgElement("text", { x: LEFT - 8, y: y(loss) + 4, "text-anchor": "end" }, text));
  }
  drawing.append(svgElement("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  for (const round of new Set([1, ...ticks(1, rounds, 6, true)])) {
    drawing.append(svgElement("text", { x: x(round), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(round)));
  }
  drawing.append(svgElement("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "round"));
  [...curves.entries()].reverse().forEach(([number, curve]) => {
    const style = `s${number % 6}`;
    const path = curve.points.map(([round, loss], i) => `${i ? "L" : "M"}${x(round).toFixed(1)} ${y(loss).toFixed(1)}`);
    drawing.append(svgElement("path", { class: `curve ${style}`, d: path.join("") }));
    const [round, loss] = curve.points[curve.points.length - 1];
    drawing.append(svgElement("circle", { class: style, cx: x(round), cy: y(loss), r: 4 }));
  });
  return drawing;
}

function described(curves) {
  const parts = curves.map((curve) => {
    const [round, loss] = curve.points[curve.points.length - 1];
    return `${curve.course}: ${loss.toFixed(4)} after round ${round} of ${curve.rounds}`;
  });
  return `Training loss by round. ${parts.join("; ")}`;
}

function curveFigure(curves, showFold) {
  const figure = document.createElement("figure");
  const title = document.createElement("h3");
  title.textContent = curves[0].model + (showFold ? `, fold ${curves[0].fold + 1}` : "");
  const caption = document.createElement("p");
  caption.className = "soft small";
  const last = curves[0].points[curves[0].points.length - 1];
  caption.textContent = `training loss; round ${last[0]} of ${curves[0].rounds} complete`;
  const legend = document.createElement("ul");
  legend.className = "legend";
  curves.forEach((curve, number) => {
    const entry = document.createElement("li");
    const key = svgElement("svg", { viewBox: "0 0 28 10", "aria-hidden": "true" });
    key.append(svgElement("path", { class: `curve s${number % 6}`, d: "M0 5L28 5" }));
    entry.append(key, `${curve.course}  ${curve.points[curve.points.length - 1][1].toFixed(4)}`);
    legend.append(entry);
  });
  figure.append(title, caption, drawCurves(curves), legend);
  return figure;
}
