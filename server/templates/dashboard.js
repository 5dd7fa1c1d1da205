"use strict";
// Asks the coordinator every two seconds what is going on, and shows it. Nothing is put into the page but as text.

const EVERY_MS = 2000;
let shown = null;
let timer = 0;
const drawn = {};
const by = (id) => document.getElementById(id);

function make(name, content, className) {
  const element = document.createElement(name);
  if (className) element.className = className;
  for (const part of [content].flat()) if (part !== undefined && part !== null) element.append(part);
  return element;
}

function size(bytes) {
  let value = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5 || unit === "GB") return `${unit === "B" ? value : Number(value.toPrecision(3))} ${unit}`;
    value /= 1000;
  }
}

function duration(seconds) {
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

const clock = (time) => (time ? new Date(time).toLocaleTimeString("en-GB") : "–");
const STATES = { running: "good", finished: "good", paused: "warn", aborted: "bad", failed: "bad" };

function showHead(state) {
  const study = state.study;
  by("title").textContent = study ? study.title : "No study runs";
  document.title = (study ? `${study.state}: ${study.name}` : "no study") + " · fedrad coordinator";
  by("subtitle").textContent = study
    ? `${study.name} · SHA-256 ${study.digest.slice(0, 16)}`
    : "Hospitals may connect meanwhile. A study begins when its file is put into the queue.";
  const runs = study && ["running", "paused", "not started"].includes(study.state) && study.wish !== "abort";
  by("actions").hidden = meta("role") !== "operator" || !runs;
  if (runs) {
    by("pause").hidden = study.wish === "pause";
    by("resume").hidden = study.wish !== "pause";
  }
  const wish = by("wish");
  const waits = study && !["aborted", "failed", "finished"].includes(study.state);
  wish.hidden = !(waits && study.wish !== "run");
  if (!wish.hidden && study.wish === "pause") {
    wish.textContent = study.state === "paused" ? `Paused by ${study.wished_by}. No hospital is asked anything until the study is resumed.`
      : `${study.wished_by} asked for a pause; it begins when the answers to the present question are in.`;
  } else if (!wish.hidden) {
    wish.textContent = `${study.wished_by} aborted the study; it ends after the next answer.`;
  }
}

function showFacts(state) {
  const study = state.study, facts = by("facts");
  if (!study) {
    facts.replaceChildren(fact("hospitals connected", String(state.connected.length)), fact("in the queue", String(state.queue.length)));
    return;
  }
  const online = state.sites.filter((site) => site.online).length;
  const ended = ["aborted", "failed", "finished"].includes(study.state);
  const seconds = study.began ? (new Date(ended ? study.last : state.now) - new Date(study.began)) / 1000 : 0;
  const phase = study.phase + (study.round ? `, round ${study.round}` : "");
  const moved = state.sites.reduce((sum, site) => sum + site.bytes_down + site.bytes_up, 0);
  facts.replaceChildren(
    fact("state", make("span", study.state, `tag ${STATES[study.state] || ""}`)),
    fact("phase", phase, study.since ? `since ${clock(study.since)}` : ""),
    fact("awaited", study.awaited.length ? study.awaited.join(", ") : "nobody"),
    fact("hospitals online", `${online} of ${state.sites.length}`, `a round needs ${study.quorum}`),
    fact("moved", size(moved), "to and from all hospitals"),
    fact("running for", duration(seconds), study.began ? `began ${new Date(study.began).toLocaleString("en-GB")}` : ""),
  );
}

function fact(label, value, note) {
  return make("div", [make("dt", label), make("dd", [value, note ? make("small", note) : null])]);
}

function showSites(state) {
  const head = ["hospital", "connection", "answer", "cases", "received", "sent", "refusals"];
  const rows = state.sites.map((site) => {
    const told = site.role ? `${site.role === "external" ? "external test" : site.role}` : "";
    const link = make("span", site.online ? "online" : "offline", `tag ${site.online ? "good" : "bad"}`);
    const waiting = site.silent ? `silent in ${site.silent}` : site.awaited ? "awaited now" : "";
    const answer = make("td", [clock(site.last_answer), waiting ? make("small", waiting) : null]);
    const refusals = Object.entries(site.refusals).map(([code, n]) => `${code} ${n}`).join(", ");
    return make("tr", [
      labelled(make("th", [site.name, told ? make("small", told) : null]), ""),
      labelled(make("td", link), head[1]),
      labelled(answer, "last answer"),
      labelled(make("td", cases(site)), head[3]),
      labelled(make("td", size(site.bytes_down), "n"), head[4]),
      labelled(make("td", size(site.bytes_up), "n"), head[5]),
      labelled(make("td", refusals || "none"), head[6]),
    ]);
  });
  if (!rows.length) {
    by("sites").replaceChildren(make("tbody", make("tr", make("td", "No hospital is connected.", "empty"))));
    return;
  }
  const names = ["hospital", "connection", "last answer", "cases", "received", "sent", "refusals"];
  const header = make("tr", names.map((name, i) => make("th", name, i === 4 || i === 5 ? "n" : "")));
  by("sites").replaceChildren(make("thead", header), make("tbody", rows));
}

function labelled(cell, label) {
  if (label) cell.dataset.label = label;
  return cell;
}

function cases(site) {
  if (site.listed !== null) return [`${site.usable} of ${site.listed}`, make("small", "usable")];
  if (!site.prepared) return "–";
  const bar = make("progress", null, "bar");
  bar.max = Math.max(1, site.prepared[1]);
  bar.value = site.prepared[0];
  return [`${site.prepared[0]} of ${site.prepared[1]} prepared`, bar];
}

function showCurves(state) {
  by("curves-section").hidden = !state.study;
  by("curves-empty").hidden = state.curves.length > 0;
  const groups = new Map();
  for (const curve of state.curves) {
    const key = `${curve.model} ${curve.fold}`;
    groups.set(key, [...(groups.get(key) || []), curve]);
  }
  const folds = new Set(state.curves.map((curve) => curve.fold)).size > 1;
  by("curves").replaceChildren(...[...groups.values()].map((curves) => curveFigure(curves, folds)));
}

function table(head, rows, numbers) {
  const cells = (name, row) => row.map((text, i) => make(name, text, numbers.includes(i) ? "n" : ""));
  const body = rows.map((row) => make("tr", cells("td", row)));
  return make("div", make("table", [make("thead", make("tr", cells("th", head))), make("tbody", body)]), "wide");
}

function showPrivacy(state) {
  if (!state.study) return by("privacy").replaceChildren(make("p", "No study runs.", "empty"));
  if (!state.privacy.length) {
    const text = "The study has no differential privacy of cases, so none of it is spent; what site-level privacy costs, where the study has it, stands in the report. No image or row of a table leaves a hospital; sums of fewer cases than the study's minimum do not either.";
    return by("privacy").replaceChildren(make("p", text, "empty"));
  }
  const parts = state.privacy.flatMap((target) => {
    const rows = state.sites.filter((site) => site.role === "training").map((site) => {
      const spent = site.spent[target.of] || 0;
      const bar = make("progress", null, "bar");
      bar.max = target.epsilon;
      bar.value = spent;
      return [site.name, [`${spent.toFixed(2)} of ${target.epsilon}`], bar];
    });
    const note = `${target.of}: epsilon spent at delta ${target.delta}`;
    return [make("h3", note), table(["hospital", "epsilon", ""], rows, [1])];
  });
  by("privacy").replaceChildren(...parts);
}

function showRest(state) {
  const left = state.exclusions.map((one) => [one.site, [make("code", one.code), make("small", one.meaning)], String(one.n)]);
  by("exclusions").replaceChildren(left.length ? table(["hospital", "reason", "cases"], left, [2])
    : make("p", state.sites.some((site) => site.listed !== null && site.listed !== undefined) ? "All listed cases are used." : "Not known before the hospitals have prepared their cases.", "empty"));
  const phases = state.phases.map((one) => [one.phase, duration(one.seconds)]);
  by("phases").replaceChildren(phases.length ? table(["phase", "time"], phases, [1]) : make("p", "No phase is complete yet.", "empty"));
  by("queue-section").hidden = !state.has_queue;
  const operator = meta("role") === "operator";
  const queue = state.queue.map((entry) => {
    let word = entry.fault || (entry.approved_by ? `approved by ${entry.approved_by}` : state.approval ? "waits for approval" : "starts when its turn comes");
    if (operator && state.approval && !entry.approved_by && !entry.fault) {
      const button = make("button", "Approve");
      button.type = "button";
      button.addEventListener("click", () => askToConfirm("approve", entry.name, entry.digest));
      word = [word, make("br"), button];
    }
    return [[entry.name, make("small", entry.title)], word];
  });
  by("queue").replaceChildren(queue.length ? table(["study", "state"], queue, []) : make("p", "No study waits.", "empty"));
  const lines = state.log.map((line) => {
    const time = make("time", clock(line.time));
    time.dateTime = line.time;
    return make("li", [time, make("span", line.text, line.level)]);
  });
  by("log").replaceChildren(...(lines.length ? lines : [make("li", make("span", "Nothing has happened yet.", "empty"))]));
}

function show(state) {
  shown = state;
  showHead(state);
  showFacts(state);
  showSites(state);
  const parts = { curves: [showCurves, [state.curves, !state.study]], privacy: [showPrivacy, [state.privacy, state.sites, !state.study]],
    rest: [showRest, [state.exclusions, state.phases, state.queue, state.log, state.sites]] };
  for (const [name, [draw, content]] of Object.entries(parts)) {  // drawn again only where something changed
    const text = JSON.stringify(content);
    if (drawn[name] !== text) draw(state);
    drawn[name] = text;
  }
}

async function look() {
  clearTimeout(timer);
  const live = by("live"), lost = by("lost");
  try {
    const answer = await fetch("/api/state");
    if (answer.status === 401) { location.assign("/login"); return; }
    const state = await answer.json();
    if (!answer.ok) throw new Error(state.fault);
    show(state);
    live.className = "live on";
    live.textContent = `live, ${clock(state.now)}`;
    lost.hidden = true;
  } catch (error) {
    live.className = "live off";
    live.textContent = "not live";
    lost.hidden = false;
    lost.textContent = `The coordinator does not answer (${error.message}). What is shown is from ${shown ? clock(shown.now) : "nowhere"}; this page tries again.`;
  }
  timer = setTimeout(look, EVERY_MS);
}

setUpActions();
look();
