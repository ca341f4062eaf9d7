// The compare page: lays out two groups of runs. Means, intervals and verdicts come with the data.
"use strict";

const data = JSON.parse(document.getElementById("data")?.textContent ?? "null");

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const short = (value) => typeof value !== "number" ? "" : String(Number(value.toPrecision(4)));
const signed = (value) => (value > 0 ? "+" : "") + short(value);
const shown = (value) => value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);

function table(label, heads, rows) {
  const head = element("tr");
  for (const [name, kind] of heads) head.append(element("th", { scope: "col", class: kind }, name));
  const body = element("tbody");
  for (const cells of rows) {
    const row = element("tr");
    cells.forEach((cell, index) => row.append(element(
      index ? "td" : "th", index ? { class: heads[index][1] } : { scope: "row" }, cell)));
    body.append(row);
  }
  const made = element("table", {}, element("thead", {}, head), body);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, made);
}

function chosen(side) {
  const group = document.getElementById(side).value;
  const seed = document.getElementById(`${side}-seed`).value;
  const runs = data.groups[group].runs.filter((run) => seed === "" || String(run.seed) === seed);
  return { group, seed, runs, data: data.groups[group].data, name: seed === "" ? group : `${group}, seed ${seed}` };
}

function mean(runs, metric) {
  const values = runs.map((run) => run.metrics[metric]).filter((value) => value !== undefined);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : undefined;
}

// Plain differences; and over them what was judged beforehand, turned round if it was the other way.
function rowsOf(one, other) {
  const whole = !one.seed && !other.seed && one.group !== other.group;
  const single = whole && one.runs.length === 1 && other.runs.length === 1;
  const rows = {};
  for (const name of Object.keys(data.metrics)) {
    const [first, second] = [mean(one.runs, name), mean(other.runs, name)];
    if (first === undefined || second === undefined) continue;
    const plain = single ? "one seed" : "not judged";
    const verdict = one.data !== other.data ? "other data" : first === second ? "equal" : plain;
    rows[name] = { first, second, difference: second - first, verdict };
  }
  return whole ? { ...rows, ...judged(one.group, other.group) } : rows;
}

function judged(one, other) {
  const turned = { better: "worse", worse: "better" };
  const back = data.pairs[`${other}|${one}`] ?? {};
  return data.pairs[`${one}|${other}`] ?? Object.fromEntries(Object.entries(back).map(([name, row]) => [name, {
    ...row, first: row.second, second: row.first, difference: -row.difference,
    verdict: turned[row.verdict] ?? row.verdict,
    rows: row.rows && { ...row.rows, first: row.rows.second, second: row.rows.first },
  }]));
}

function verdict(row) {
  const made = element("span", { class: `verdict ${row.verdict.replaceAll(" ", "-")}` }, row.verdict + (row.holm ? "*" : ""));
  if (!row.rows) return made;
  const spans = ["first", "second"].map((side) => `[${row.rows[side].map(short).join(", ")}]`);
  const words = row.rows.overlap ? "overlap" : "do not overlap";
  return element("span", {}, made, element("span", { class: "spread" }, `over test rows ${spans.join(" and ")} ${words}`));
}

function metrics(one, other) {
  const rows = rowsOf(one, other);
  const arrows = { lower: " ↓", higher: " ↑", "": "" };
  const line = (name) => {
    const row = rows[name];
    const half = row.interval === undefined ? "" : ` ± ${short(row.interval)}`;
    const label = element("span", { title: data.metrics[name].meaning }, element("code", {}, name), arrows[data.metrics[name].better]);
    return [label, short(row.first), short(row.second), signed(row.difference) + half, verdict(row)];
  };
  const heads = [["metric", ""], [one.name, "num"], [other.name, "num"], ["change", "num"], ["verdict", "text"]];
  const names = Object.keys(data.metrics).filter((name) => name in rows);
  const different = (name) => ["better", "worse", "differs"].includes(rows[name].verdict);
  const first = names.filter((name) => data.headline.includes(name) || different(name));
  const rest = names.filter((name) => !first.includes(name));
  const parts = [];
  if (!names.length) parts.push(element("p", { class: "empty" }, "They have no metric in common."));
  else parts.push(table("Metrics", heads, first.map(line)));
  if (rest.length) {
    parts.push(element("details", {}, element("summary", {}, `${rest.length} more metrics, none called different`),
      table("More metrics", heads, rest.map(line))));
  }
  return parts;
}

function parameters(one, other) {
  const [first, second] = [one.runs[0].params, other.runs[0].params];
  const keys = [...new Set([...Object.keys(first), ...Object.keys(second)])].sort();
  const rows = keys.filter((key) => JSON.stringify(first[key]) !== JSON.stringify(second[key]))
    .map((key) => [element("code", {}, key), shown(first[key]), shown(second[key])]);
  if (!rows.length) return element("p", { class: "empty" }, "No parameter differs.");
  return table("Parameters that differ", [["parameter", ""], [one.name, "text wide"], [other.name, "text wide"]], rows);
}

// A chart of named lines, from the specification that the page holds without its data.
function chart(title, lines) {
  const values = {
    x: "update", y: title.split(": ").at(-1), log: lines.every(([, points]) => points.every(([, y]) => y > 0)) ? "log" : "symlog",
    names: lines.map(([name]) => name), colours: lines.map(([, , number]) => `var(--s${number})`),
    points: lines.map(([series, points]) => ({ series, part: 0, x: points.map(([x]) => x), y: points.map(([, y]) => y) })),
  };
  const text = document.getElementById("spec").textContent;
  const spec = JSON.parse(text.replace(/\["@(\w+)"\]|"@(\w+)"/g, (_, list, one) => JSON.stringify(values[list ?? one])));
  const said = lines.map(([name, points]) => `${name} ends at ${short(points.at(-1)[1])}`).join("; ");
  const place = element("div", { class: "chart" });
  const figure = element("figure", { class: "card" }, element("figcaption", {}, title), place);
  charts.start(place, spec, `${title}: ${said}`);
  return figure;
}

function curves(one, other) {
  const [first, second] = [one.runs[0].curves, other.runs[0].curves];
  const charts = [...new Set([...Object.keys(first), ...Object.keys(second)])].map((key) => chart(
    key.replace("/", ": ").replaceAll("_", " "),
    [[one.name, first[key], 0], [other.name, second[key], 1]].filter(([, points]) => points?.length)));
  if (!charts.length) return [element("p", { class: "empty" }, "No curve of either is in this folder.")];
  const keys = element("p", {}, element("span", { class: "key s0" }, `${one.name} (seed ${one.runs[0].seed})`), " ",
    element("span", { class: "key s1" }, `${other.name} (seed ${other.runs[0].seed})`));
  return [keys, element("div", { class: "grid" }, ...charts)];
}

function samples(one, other) {
  const list = (side) => {
    const rows = side.runs[0].samples.map((text) => element("li", {}, text));
    const body = rows.length ? element("ol", {}, ...rows) : element("p", { class: "empty" }, "No sample of it is in this folder.");
    return element("div", { class: "card" }, element("h3", {}, `${side.group}, seed ${side.runs[0].seed}`), body);
  };
  return element("div", { class: "pair" }, list(one), list(other));
}

function notes(one, other) {
  const said = [];
  if (one.data !== other.data) said.push(`Different data (${one.data}, ${other.data}): metrics are not judged.`);
  else if (one.group === other.group || one.seed || other.seed) {
    said.push("Single seeds, or runs of one experiment: the spread over seeds is not known from them, so nothing is called better.");
  } else if (Math.min(one.runs.length, other.runs.length) === 1) {
    said.push("One seed on a side: the spread over seeds is not known, so nothing is called better. Where a metric has a 95% interval over test rows, that is given.");
  }
  return said.map((text) => element("p", { class: "warning" }, text));
}

function facts(one, other) {
  const line = (key, side) => [...new Set(side.runs.map((run) => run.facts[key]).filter((value) => value !== null && value !== undefined))];
  const seconds = (side) => line("seconds", side).map((value) => `${Math.round(value)} s`).join(", ");
  return table("Runs", [["", ""], [one.name, "text"], [other.name, "text"]], [
    ["data", one.data, other.data],
    ["seeds", ...[one, other].map((side) => side.runs.map((run) => run.seed).join(", "))],
    ["commit", ...[one, other].map((side) => line("commit", side).map((value) => value.slice(0, 12)).join(", ") || "–")],
    ["device", ...[one, other].map((side) => line("device", side).join(", ") || "–")],
    ["time", ...[one, other].map((side) => seconds(side) || "–")],
  ]);
}

function section(title, ...parts) {
  return element("section", {}, element("h2", {}, title), ...parts);
}

function render() {
  const [one, other] = [chosen("first"), chosen("second")];
  const heading = element("h2", {}, `${one.name} → ${other.name}`);
  document.getElementById("result").replaceChildren(
    element("section", {}, heading, ...notes(one, other), facts(one, other)),
    section("Metrics", ...metrics(one, other)), section("Parameters that differ", parameters(one, other)),
    section("Training curves", ...curves(one, other)), section("Samples", samples(one, other)));
  const state = new URLSearchParams({ a: one.group, b: other.group });
  if (one.seed) state.set("as", one.seed);
  if (other.seed) state.set("bs", other.seed);
  history.replaceState(null, "", `#${state}`);
}

function seeds(side, seed = "") {
  const runs = data.groups[document.getElementById(side).value].runs;
  const options = runs.map((run) => element("option", { value: run.seed }, String(run.seed)));
  const all = element("option", { value: "" }, `all (${runs.map((run) => run.seed).join(", ")})`);
  const select = document.getElementById(`${side}-seed`);
  select.replaceChildren(all, ...options);
  if (runs.some((run) => String(run.seed) === seed)) select.value = seed;
}

function restore() {
  const names = Object.keys(data.groups);
  const wanted = new URLSearchParams(location.hash.slice(1));
  const run = location.hash.startsWith("#of-") && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (run) {  // from the page of a run
    wanted.set("a", run.dataset.group);
    wanted.set("as", run.dataset.seed);
    window.addEventListener("load", () => window.scrollTo(0, 0));
  }
  const pairs = Object.keys(data.pairs).map((key) => key.split("|"));
  const several = ([one, other]) => Math.min(data.groups[one].runs.length, data.groups[other].runs.length) > 1;
  const first = names.includes(wanted.get("a")) ? wanted.get("a") : (pairs.find(several) ?? pairs[0] ?? names)[0];
  const mine = pairs.filter((pair) => pair.includes(first));
  const partner = (mine.find(several) ?? mine[0] ?? names).find((name) => name !== first);
  document.getElementById("first").value = first;
  document.getElementById("second").value = names.includes(wanted.get("b")) ? wanted.get("b") : partner;
  seeds("first", wanted.get("as") ?? "");
  seeds("second", wanted.get("bs") ?? "");
  render();
}

if (data) {
  for (const side of ["first", "second"]) {
    const select = document.getElementById(side);
    for (const name of Object.keys(data.groups)) select.append(element("option", { value: name }, name));
    select.addEventListener("change", () => { seeds(side); render(); });
    document.getElementById(`${side}-seed`).addEventListener("change", render);
  }
  document.getElementById("swap").addEventListener("click", () => {
    const [one, other] = [chosen("first"), chosen("second")];
    document.getElementById("first").value = other.group;
    document.getElementById("second").value = one.group;
    seeds("first", other.seed);
    seeds("second", one.seed);
    render();
  });
  document.getElementById("choose").hidden = false;
  window.addEventListener("hashchange", () => {
    if (/^#(a=|of-)/.test(location.hash)) restore();
  });
  restore();
}
