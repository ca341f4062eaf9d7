// The compare page: lays out groups of runs, each loaded when it is chosen. Verdicts come with the data.
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

const LETTERS = "abcdefgh"; // of the sides, in the address; the first is what the others are held against
const names = data ? Object.keys(data.groups) : [];
const loaded = new Map(); // group -> its runs and the pairs it is first in
const here = document.currentScript.src;
let sides = []; // of { group, seed }, seed "" for all

window.compared = (content) => loaded.set(content.name, content);

const load = (group) => loaded.has(group) ? undefined : new Promise((done, failed) => {
  const script = document.createElement("script");
  script.addEventListener("load", done);
  script.addEventListener("error", failed);
  script.src = new URL(`../compare/${names.indexOf(group)}.js`, here);
  document.head.append(script);
});

function content({ group, seed }) {
  const runs = loaded.get(group).runs.filter((run) => seed === "" || String(run.seed) === seed);
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
  const back = loaded.get(other).pairs[one] ?? {};
  return loaded.get(one).pairs[other] ?? Object.fromEntries(Object.entries(back).map(([name, row]) => [name, {
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

function metrics(all) {
  const [one, ...others] = all;
  const judgements = others.map((other) => rowsOf(one, other));
  const arrows = { lower: " ↓", higher: " ↑", "": "" };
  const line = (name) => {
    const label = element("span", { title: data.metrics[name].meaning }, element("code", {}, name), arrows[data.metrics[name].better]);
    const cells = judgements.map((rows) => {
      const row = rows[name];
      if (!row) return ["", "", ""];
      return [short(row.second), signed(row.difference) + (row.interval === undefined ? "" : ` ± ${short(row.interval)}`), verdict(row)];
    });
    return [label, short(judgements.find((rows) => name in rows)[name].first), ...cells.flat()];
  };
  const heads = [["metric", ""], [one.name, "num"], ...others.flatMap((other) => [[other.name, "num"], ["change", "num"], ["verdict", "text"]])];
  const known = Object.keys(data.metrics).filter((name) => judgements.some((rows) => name in rows));
  const different = (name) => judgements.some((rows) => ["better", "worse", "differs"].includes(rows[name]?.verdict));
  const first = known.filter((name) => data.headline.includes(name) || different(name));
  const rest = known.filter((name) => !first.includes(name));
  const parts = [];
  if (!known.length) parts.push(element("p", { class: "empty" }, "They have no metric in common."));
  else parts.push(table("Metrics", heads, first.map(line)));
  if (rest.length) {
    parts.push(element("details", {}, element("summary", {}, `${rest.length} more metrics, none called different`),
      table("More metrics", heads, rest.map(line))));
  }
  return parts;
}

function parameters(all) {
  const params = all.map((side) => side.runs[0].params);
  const keys = [...new Set(params.flatMap((mine) => Object.keys(mine)))].sort();
  const rows = keys.filter((key) => params.some((mine) => JSON.stringify(mine[key]) !== JSON.stringify(params[0][key])))
    .map((key) => [element("code", {}, key), ...params.map((mine) => shown(mine[key]))]);
  if (!rows.length) return element("p", { class: "empty" }, "No parameter differs.");
  return table("Parameters that differ", [["parameter", ""], ...all.map((side) => [side.name, "text wide"])], rows);
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
  const same = lines.map(([, points]) => JSON.stringify(points));
  const hidden = lines.filter((_, i) => same.indexOf(same[i]) < i).map(([name]) => name);
  const under = hidden.length ? ` (under a curve with the same values: ${hidden.join(", ")})` : "";
  const figure = element("figure", { class: "card" }, element("figcaption", {}, title + under), place);
  charts.start(place, spec, `${title}: ${said}`);
  return figure;
}

function curves(all) {
  const keys = [...new Set(all.flatMap((side) => Object.keys(side.runs[0].curves)))];
  const drawn = keys.map((key) => chart(key.replace("/", ": ").replaceAll("_", " "),
    all.map((side, number) => [side.name, side.runs[0].curves[key], number]).filter(([, points]) => points?.length)));
  if (!drawn.length) return [element("p", { class: "empty" }, "No curve of any is in this folder.")];
  const legend = all.map((side, number) => element("span", { class: `key s${number}` }, `${side.name} (seed ${side.runs[0].seed}) `));
  return [element("p", {}, ...legend), element("div", { class: "grid" }, ...drawn)];
}

function samples(all) {
  return element("div", { class: "pair" }, ...all.map((side) => {
    const rows = side.runs[0].samples.map((text) => element("li", {}, text));
    const body = rows.length ? element("ol", {}, ...rows) : element("p", { class: "empty" }, "No sample of it is in this folder.");
    return element("div", { class: "card" }, element("h3", {}, `${side.group}, seed ${side.runs[0].seed}`), body);
  }));
}

function notes([one, ...others]) {
  const said = new Set(others.map((other) => {
    if (one.data !== other.data) return `Different data (${one.data}, ${other.data}): metrics are not judged.`;
    if (one.group === other.group || one.seed || other.seed) {
      return "Single seeds, or runs of one experiment: the spread over seeds is not known from them, so nothing is called better.";
    }
    if (Math.min(one.runs.length, other.runs.length) > 1) return "";
    return "One seed on a side: the spread over seeds is not known, so nothing is called better. Where a metric has a 95% interval over test rows, that is given.";
  }));
  return [...said].filter(Boolean).map((text) => element("p", { class: "warning" }, text));
}

function facts(all) {
  const known = (key, side) => [...new Set(side.runs.map((run) => run.facts[key]).filter((value) => value !== null && value !== undefined))];
  const row = (name, cell) => [name, ...all.map((side) => cell(side) || "–")];
  return table("Runs", [["", ""], ...all.map((side) => [side.name, "text"])], [
    row("data", (side) => side.data),
    row("seeds", (side) => side.runs.map((run) => run.seed).join(", ")),
    row("commit", (side) => known("commit", side).map((value) => value.slice(0, 12)).join(", ")),
    row("device", (side) => known("device", side).join(", ")),
    row("time", (side) => known("seconds", side).map((value) => `${Math.round(value)} s`).join(", ")),
  ]);
}

function section(title, ...parts) {
  return element("section", {}, element("h2", {}, title), ...parts);
}

async function render() {
  const wanted = sides;
  const missing = sides.map((side) => load(side.group)).filter(Boolean);
  if (missing.length) await Promise.all(missing);
  if (wanted !== sides) return; // another choice was made meanwhile
  const all = sides.map(content);
  const heading = element("h2", {}, all.map((side) => side.name).join(" → "));
  document.getElementById("result").replaceChildren(
    element("section", {}, heading, ...notes(all), facts(all)),
    section("Metrics", ...metrics(all)), section("Parameters that differ", parameters(all)),
    section("Training curves", ...curves(all)), section("Samples", samples(all)));
  const state = new URLSearchParams();
  sides.forEach((side, number) => state.set(LETTERS[number], side.group));
  sides.forEach((side, number) => side.seed && state.set(`${LETTERS[number]}s`, side.seed));
  history.replaceState(null, "", `#${state}`);
}

// The form: a group and its seeds for every side.
function choose(next) {
  sides = next;
  const field = (name, label, options, value, change) => {
    const select = element("select", { id: name }, ...options.map(([key, text]) => element("option", { value: key }, text)));
    select.value = value;
    select.addEventListener("change", () => change(select.value));
    return element("label", {}, `${label} `, select);
  };
  const set = (number, side) => choose(sides.map((old, place) => place === number ? side : old));
  const titles = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];
  const focused = document.activeElement?.id;
  document.getElementById("sides").replaceChildren(...sides.map((side, number) => {
    const title = titles[number];
    const { seeds } = data.groups[side.group];
    const line = element("div", { class: "side" },
      field(title, title[0].toUpperCase() + title.slice(1), names.map((name) => [name, name]), side.group, (group) => set(number, { group, seed: "" })),
      field(`${title}-seed`, "seeds", [["", `all (${seeds.join(", ")})`], ...seeds.map((seed) => [String(seed), String(seed)])], side.seed,
        (seed) => set(number, { ...side, seed })));
    if (number > 1) {
      const remove = element("button", { type: "button", "aria-label": `Remove the ${title}` }, "×");
      remove.addEventListener("click", () => choose(sides.filter((_, place) => place !== number)));
      line.append(remove);
    }
    return line;
  }));
  document.getElementById("add").hidden = sides.length === LETTERS.length;
  if (focused) document.getElementById(focused)?.focus();
  render();
}

// What to hold a group against: another on the same data, with several seeds if there is one.
function partner(group, taken) {
  const others = names.filter((name) => !taken.includes(name));
  const same = others.filter((name) => data.groups[name].data === data.groups[group].data);
  return same.find((name) => data.groups[name].seeds.length > 1) ?? same[0] ?? others[0] ?? group;
}

function restore() {
  const wanted = new URLSearchParams(location.hash.startsWith("#a=") ? location.hash.slice(1) : location.search);
  const run = location.hash.startsWith("#of-") && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (run) { // from the page of a run
    wanted.set("a", run.dataset.group);
    wanted.set("as", run.dataset.seed);
    window.addEventListener("load", () => window.scrollTo({ top: 0, behavior: "instant" }));
  }
  const known = [...LETTERS].map((letter) => ({ group: wanted.get(letter), seed: wanted.get(`${letter}s`) ?? "" }))
    .filter(({ group }) => names.includes(group))
    .map(({ group, seed }) => ({ group, seed: data.groups[group].seeds.some((one) => String(one) === seed) ? seed : "" }));
  const several = names.filter((name) => data.groups[name].seeds.length > 1);
  const start = several.find((name) => several.some((other) => other !== name && data.groups[other].data === data.groups[name].data));
  if (!known.length) known.push({ group: start ?? names[0], seed: "" });
  if (known.length === 1) known.push({ group: partner(known[0].group, [known[0].group]), seed: "" });
  choose(known);
}

if (data) {
  document.getElementById("swap").addEventListener("click", () => choose([sides[1], sides[0], ...sides.slice(2)]));
  document.getElementById("add").addEventListener("click", () => {
    choose([...sides, { group: partner(sides[0].group, sides.map((side) => side.group)), seed: "" }]);
  });
  document.getElementById("choose").hidden = false;
  window.addEventListener("hashchange", () => {
    if (/^#(a=|of-)/.test(location.hash)) restore();
  });
  restore();
}
