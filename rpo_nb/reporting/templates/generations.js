"use strict";
// What is shown stands in the address: #study=…&place=…&seed=…&prompt=… is a prompt, and
// #table=table3&preset=… a cell of a table. Texts are set as text, never as markup.
const index = JSON.parse(document.getElementById("index").textContent);
const byId = id => document.getElementById(id);
const [A, LAB] = index.studies;
const WORDS = { w: "won", e: "even", l: "lost", n: "no verdict" };
const waiting = {}, loaded = {};

// ---- reading --------------------------------------------------------------------------------

window.rpo = async (name, packed) => { // each file beside the page calls this
  const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  waiting[name](await new Response(stream).json());
};
function load(name) {
  loaded[name] ??= new Promise((done, failed) => {
    if (!window.DecompressionStream) return failed(new Error("this browser is too old to unpack the texts; one from 2023 or later can"));
    waiting[name] = done;
    const script = document.createElement("script");
    script.src = `${index.data}/${encodeURIComponent(name)}.js`;
    script.onerror = () => { delete loaded[name]; failed(new Error(`${index.data}/${name}.js is not beside this page`)); };
    document.head.append(script);
  });
  return loaded[name];
}

// ---- building -------------------------------------------------------------------------------

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child != null && child !== ""));
  return node;
}
const link = (text, href, more = {}) => el("a", { href, ...more }, text);
const address = values => "#" + new URLSearchParams(Object.entries(values).filter(([, v]) => v !== "" && v != null && v !== false));
function choice(label, name, options, chosen) { // options: [value, words]
  const select = el("select", { name, onchange: () => change({ [name]: select.value }) },
    ...options.map(([value, words]) => el("option", { value, selected: String(value) === String(chosen) }, words)));
  return options.length > 1 ? el("label", {}, label, select) : "";
}
const plain = (number, digits = 2) => number.toFixed(digits).replace("-", "−");
const signed = number => (number > 0 ? "+" : "") + plain(number);
const title = method => (index.methods[method] || [method])[0];
const colour = method => (index.methods[method] || [, "var(--soft)"])[1];
const unique = values => [...new Set(values)];

// ---- what is asked for ----------------------------------------------------------------------

let state = {}, numbersOf = null;

function change(values) { // a filter was moved: what no longer fits is forgotten
  const next = { ...state, ...values };
  if ("study" in values) { next.place = next.preset = next.method = next.split = ""; }
  if ("study" in values || "place" in values || "seed" in values) next.who = next.judge = next.said = "";
  if ("preset" in values || "method" in values) next.who = next.judge = next.said = "";
  location.hash = address(next);
}
function shelfOf(wanted) { // the shelf that fits best
  const fits = shelf => 4 * (shelf.study === wanted.study) + 2 * (shelf.place === wanted.place) + (String(shelf.seed) === String(wanted.seed));
  const study = index.shelves.some(s => s.study === wanted.study) ? wanted.study : index.shelves[0].study;
  return index.shelves.filter(s => s.study === study).reduce((best, s) => fits(s) > fits(best) ? s : best);
}
async function stateOf(params) {
  byId("walk").hidden = false;
  if (!params.has("table")) { byId("cell").hidden = true; return Object.fromEntries(params); }
  const numbers = await load("numbers"), table = numbers.tables[params.get("table")];
  const cell = table?.cells.find(([key]) => table.keys.every((name, i) => (params.get(name) ?? "") === key[i]));
  if (!cell) throw new Error("there is no such cell: choose it below");
  showCell(numbers, params.get("table"), table, cell);
  const seed = cell[2].find(s => String(s[0]) === params.get("seed")) || cell[2][0];
  const texts = textsOf(numbers, seed[4]);
  byId("walk").hidden = !texts.study; // its texts are not here: others would mislead
  return { ...texts, judge: judgeOf(table, cell), prompt: params.get("prompt") };
}
const judgeOf = (table, cell) => table.keys.includes("judge") && table.keys.includes("size") ? cell[0][table.keys.indexOf("judge")] : "";
function textsOf(numbers, sides) { // the state that shows the texts of a cell's policies
  const known = sides.filter(side => side[2] !== null).map(side => numbers.columns[side[2]]);
  if (!known.length) return {};
  const shelf = index.shelves.find(s => s.name === known[0][0]);
  return { study: shelf.study, place: shelf.place, seed: shelf.seed, preset: known[0][2].includes("/") || shelf.study !== A ? "" : known[0][2], split: known[0][3],
    who: unique([...known.map(k => k[1]), ...(shelf.study === A ? [] : ["reference"])]).join("|") };
}
async function render() {
  try {
    state = await stateOf(new URLSearchParams(location.hash.slice(1)));
    const shelf = shelfOf(state);
    Object.assign(state, { study: shelf.study, place: shelf.place, seed: shelf.seed });
    byId("status").textContent = "reading …";
    const data = await load(shelf.name);
    byId("status").textContent = "";
    forget(shelf, data);
    draw(shelf, data);
  } catch (error) { byId("status").textContent = `Not shown: ${error.message}.`; }
  document.body.dataset.ready = location.hash || "#"; // for whoever waits
}

const judgesOf = data => unique((data.verdicts || []).map(v => v.judge));
function forget(shelf, data) { // filters that this shelf does not have: there would be no way to take them back
  const judges = judgesOf(data);
  if (!shelf.presets.some(name => name.split("/").includes(state.preset))) state.preset = "";
  if (state.method) state.method = state.method.split(",").filter(method => shelf.methods.includes(method)).join(",");
  if (!shelf.splits.includes(state.split)) state.split = "";
  if (!judges.length && state.order === "disagreement") state.order = "";
  if (judges.length < 2) state.only = "";
  if (!judges.includes(state.judge)) state.judge = state.said = "";
}

// ---- which columns and prompts --------------------------------------------------------------

function visible(data) {
  const methods = state.method ? state.method.split(",") : [], who = state.who ? state.who.split("|") : [];
  return data.columns.map((column, i) => i).filter(i => {
    const c = data.columns[i];
    return (!state.preset || c.preset.split("/").includes(state.preset) || (c.preset === "" && c.method === "reference"))
      && (!methods.length || methods.includes(c.method)) && (!who.length || who.includes(c.policy));
  });
}
const referenceOf = (data, column) => data.columns.findIndex(c => c.method === "reference" && c.policy === "reference" && (state.study !== A || c.preset === column.preset));
const pairsOf = (data, shown) => (data.verdicts || []).filter(v => shown.includes(v.method) && shown.includes(v.baseline));
function disagreement(pairs, p) { // pairs of completions on which the judges say different things
  const said = {};
  for (const v of pairs) if ("wel".includes(v.said[p])) (said[`${v.method} ${v.baseline}`] ??= new Set()).add(v.said[p]);
  return Object.values(said).filter(set => set.size > 1).length;
}
function loss(data, shown, pairs, p) { // to the reference: in points, else in verdicts
  if (!data.rewards) return pairs.filter(v => data.columns[v.baseline].method === "reference" && v.said[p] === "l").length;
  const rewards = data.rewards[p];
  return Math.max(0, ...shown.map(i => { const r = referenceOf(data, data.columns[i]); return r < 0 || rewards[r] == null || rewards[i] == null ? 0 : (rewards[r] - rewards[i]) / 100; }));
}
function prompts(data, shown) {
  const pairs = pairsOf(data, shown), mine = pairs.filter(v => v.judge === state.judge);
  let list = data.prompts.map((prompt, p) => ({ p, prompt, told: "" }));
  if (state.split) list = list.filter(one => one.prompt.split === state.split);
  if (state.only) list = list.filter(one => disagreement(pairs, one.p));
  if (state.judge && state.said) list = list.filter(one => mine.some(v => WORDS[v.said[one.p]] === state.said));
  if (state.judge && mine.length === 1) for (const one of list) one.told = WORDS[mine[0].said[one.p]] || "";
  if (state.order === "loss" || state.order === "disagreement") {
    for (const one of list) {
      one.by = state.order === "loss" ? loss(data, shown, pairs, one.p) : disagreement(pairs, one.p);
      one.told = !one.by ? "" : state.order === "disagreement" || !data.rewards ? String(one.by) : plain(-one.by);
    }
    list.sort((a, b) => b.by - a.by || a.p - b.p);
  }
  return list;
}

// ---- drawing --------------------------------------------------------------------------------

function draw(shelf, data) {
  const shown = visible(data), list = prompts(data, shown);
  filters(shelf, data, list.length);
  const asked = list.find(one => String(one.prompt.id) === String(state.prompt) && (!state.split || one.prompt.split === state.split)) || list[0];
  const go = one => { location.hash = address({ ...state, prompt: one.prompt.id, split: state.split || (shelf.splits.length ? one.prompt.split : "") }); };
  byId("prompts").replaceChildren(...list.map(one => el("li", {},
    el("button", { type: "button", "aria-current": one === asked ? "true" : null, onclick: () => go(one) },
      el("span", {}, one.prompt.prompt ? `${one.prompt.id}. ${one.prompt.prompt}` : `prompt ${one.prompt.id}`), el("span", { class: "badge" }, one.told)))));
  const current = byId("prompts").querySelector("[aria-current]");
  if (current) byId("prompts").scrollTop = current.offsetTop - byId("prompts").offsetTop - 40;
  if (!asked) return byId("shown").replaceChildren(el("p", { class: "empty" }, "No prompt is left by these filters."));
  const at = list.indexOf(asked);
  const turn = (words, to) => el("button", { type: "button", disabled: !list[to], onclick: () => go(list[to]) }, words);
  byId("shown").replaceChildren(
    el("div", { class: "turn" }, turn("‹ previous", at - 1), turn("next ›", at + 1), el("span", { class: "note" }, `${at + 1} of ${list.length}`),
      link("link", address({ ...state, prompt: asked.prompt.id, split: state.split || asked.prompt.split }))),
    el("p", { class: "asked" }, asked.prompt.prompt || `Prompt ${asked.prompt.id}`),
    asked.prompt.target ? el("p", { class: "target" }, "The data's best: ", asked.prompt.target) : "",
    el("div", { class: "cards" }, ...cards(data, shown, asked.p)));
}
function filters(shelf, data, count) {
  const shelves = index.shelves.filter(s => s.study === shelf.study), pressed = state.method ? state.method.split(",") : shelf.methods;
  const boxes = shelf.methods.map(method => {
    const box = el("input", { type: "checkbox", checked: pressed.includes(method), onchange: () => {
      const left = shelf.methods.filter(m => m === method ? box.checked : pressed.includes(m));
      change({ method: left.length && left.length < shelf.methods.length ? left.join(",") : "" });
    } });
    return el("label", { class: "pick" }, box, el("span", { class: "dot", style: `background:${colour(method)}` }), title(method));
  });
  const given = unique(shelf.presets.flatMap(name => name.split("/"))), presets = index.presets.filter(name => given.includes(name));
  const only = el("input", { type: "checkbox", checked: !!state.only, onchange: () => change({ only: only.checked ? "1" : "" }) });
  const held = [state.who && `only ${state.who.split("|").join(", ")}`, state.said && `${state.judge}: ${state.said}`].filter(Boolean).join("; ");
  byId("filters").replaceChildren(...[
    choice("what", "study", unique(index.shelves.map(s => s.study)).map(s => [s, s === LAB ? "the lab's regimes" : s]), shelf.study),
    choice(shelf.study === LAB ? "regime" : "size", "place", unique(shelves.map(s => s.place)).map(s => [s, s.replaceAll("_", " ")]), shelf.place),
    choice("seed", "seed", unique(shelves.filter(s => s.place === shelf.place).map(s => s.seed)).map(s => [s, s]), shelf.seed),
    presets.length > 1 ? choice("preset", "preset", [["", "all"], ...presets.map(p => [p, p])], state.preset || "") : "",
    choice("prompts", "split", [["", "all"], ...shelf.splits.map(s => [s, s.replaceAll("_", " ")])], state.split || ""),
    choice("order", "order", [["", "as asked"], ["loss", "biggest loss against the reference"], ...(data.verdicts ? [["disagreement", "judges disagree most"]] : [])], state.order || ""),
    el("fieldset", {}, el("legend", {}, "methods"), el("div", {}, ...boxes)),
    judgesOf(data).length > 1 ? el("label", { class: "pick" }, only, "only where judges disagree") : "",
    held ? el("button", { type: "button", onclick: () => change({ who: "", judge: "", said: "" }) }, `${held} ✕`) : "",
    el("span", { class: "note" }, [shelf.place.replaceAll("_", " "), `seed ${shelf.seed}`, `${count} prompts`].filter(Boolean).join(", ")),
  ].filter(Boolean));
}
function cards(data, shown, p) { // a text that several presets share is one card
  const groups = new Map();
  for (const i of shown) {
    const c = data.columns[i], key = JSON.stringify([c.policy, data.texts[p][i] ?? `column ${i}`]);
    if (data.texts[p][i] === null && c.file) continue; // not asked this prompt
    groups.set(key, [...(groups.get(key) || []), i]);
  }
  const rank = i => { // by method, then by preset; what has no place comes last
    const c = data.columns[i], places = [Object.keys(index.methods).indexOf(c.method), index.presets.indexOf(c.preset.split("/")[0])];
    return places.map(place => place < 0 ? 99 : place);
  };
  const sorted = [...groups.values()].map(columns => [rank(columns[0]), columns]).sort(([a], [b]) => a[0] - b[0] || (state.study === A ? a[1] - b[1] : 0));
  return sorted.map(([, columns]) => card(data, shown, p, columns));
}
function card(data, shown, p, columns) {
  const c = data.columns[columns[0]], text = data.texts[p][columns[0]], reference = referenceOf(data, c);
  const value = (name, i) => data[name] && data[name][p][i] != null ? data[name][p][i] / 100 : null;
  const reward = value("rewards", columns[0]), theirs = reference < 0 ? null : value("rewards", reference);
  const bits = data.lost ? data.lost[p][columns[0]] || 0 : 0;
  const learnt = value("learnt", columns[0]), ratio = value("ratios", columns[0]);
  const said = text ? el("p", { class: "said" }, text) : el("p", { class: "said none" }, text === "" ? "nothing" : "its text is not in this folder");
  const presets = unique(columns.flatMap(i => data.columns[i].preset.split("/"))).filter(Boolean);
  return el("section", { class: "card", style: `--own:${colour(c.method)}`, "aria-label": [c.policy, ...presets].join(", ") },
    el("h3", {}, c.policy, ...presets.map(name => el("span", { class: "chip" }, name))), said,
    reward === null ? "" : el("p", {}, el("span", { class: "worth" }, plain(reward)), " of 10",
      theirs === null || columns.includes(reference) ? "" : el("span", { class: "note" }, reward === theirs ? " like the reference" : ` ${signed(reward - theirs)} to the reference`)),
    bits ? el("p", {}, el("span", { class: "note" }, "lost: "), ...index.lost.filter((_, i) => bits & (1 << i)).flatMap(word => [el("span", { class: "chip lost" }, word), " "])) : "",
    learnt === null ? "" : el("p", { class: "note" }, `learnt judge ${plain(learnt)}`),
    ratio === null ? "" : el("p", { class: "note" }, `log-ratio to the reference ${plain(ratio)} nats`),
    judged(data, shown, p, columns),
    el("details", { class: "from" }, el("summary", {}, "where it is from"),
      ...columns.map(i => el("p", {}, place(data.columns[i], data, p))),
      el("p", {}, link("link to this text", address({ study: state.study, place: state.place, seed: state.seed, split: data.prompts[p].split, prompt: data.prompts[p].id, who: c.policy, preset: presets.length === 1 ? presets[0] : "" })), " · ",
        el("button", { type: "button", onclick: () => showNumbersOf(columns.map(i => data.columns[i])) }, "its numbers"))));
}
function place(column, data, p) { // the file and row of a text
  if (!column.file) return "no text in this folder";
  const row = column.last - column.first + 1 === data.prompts.length ? `row ${column.first + p}` : `rows ${column.first} to ${column.last}`;
  return el("span", {}, link(column.file, column.file), `, ${row}`, column.run ? `, run runs/${column.run}` : "");
}
function judged(data, shown, p, columns) { // what each judge says of a card's pairs, from its side
  const pairs = pairsOf(data, shown).filter(v => columns.includes(v.method) !== columns.includes(v.baseline) && v.said[p] !== "-");
  if (!pairs.length) return "";
  const flip = { w: "l", l: "w", e: "e", n: "n" }, words = { w: "wins over", e: "even with", l: "loses to", n: "no verdict with" };
  const lines = unique(pairs.map(v => v.judge)).map(judge => {
    const by = {};
    for (const v of pairs.filter(v => v.judge === judge)) {
      const mine = columns.includes(v.method), other = data.columns[mine ? v.baseline : v.method];
      const odds = v.odds && v.odds[p] != null ? ` (log-odds ${signed(mine ? v.odds[p] : -v.odds[p])})` : "";
      const preset = columns.length > 1 && !state.preset && !mine ? ` as ${other.preset}` : "";
      (by[mine ? v.said[p] : flip[v.said[p]]] ??= new Set()).add(other.policy + preset + odds);
    }
    return el("li", {}, `${judge.replaceAll("_", " ")}: `, Object.keys(words).filter(k => by[k]).map(k => `${words[k]} ${[...by[k]].join(", ")}`).join("; "));
  });
  const differ = disagreement(pairs, p);
  return el("ul", { class: "judged" }, ...lines, differ ? el("li", { class: "split" }, `the judges disagree on ${differ} of its pairs`) : "");
}

// ---- numbers --------------------------------------------------------------------------------

const file = path => link(path, path.split("/").map(encodeURIComponent).join("/"));
function showCell(numbers, name, table, [key, value, seeds]) {
  const judge = judgeOf(table, [key]);
  const side = ([role, who, at]) => {
    const where = at === null ? null : numbers.columns[at];
    return el("li", {}, role === "against" ? "over " : "", el("strong", {}, who), ": ",
      ...(where && where[4] ? [file(where[4]), `, rows ${where[5]} to ${where[6]}`, where[7] ? `, run runs/${where[7]}` : ""] : ["its texts are not in this folder"]));
  };
  const line = ([seed, own, how, evidence, sides]) => {
    const texts = { ...textsOf(numbers, sides), judge };
    const parts = how.split(", ").map(part => [part, part.split(" ")[1]]);
    return el("li", {}, `seed ${seed}: `, el("strong", {}, own === null ? "not measured" : String(own)), ", ",
      ...(judge ? parts.flatMap(([part, said], i) => [i ? ", " : "", link(part, address({ ...texts, said }))]) : [how]), ", counted from ", file(evidence), "; ",
      texts.study ? link("read its texts", address(texts)) : "", el("ul", {}, ...sides.map(side)));
  };
  byId("cell").hidden = false;
  byId("cell").replaceChildren(
    el("h2", {}, `${index.tables[name]}: ${table.keys.map((k, i) => key[i] && `${k.replaceAll("_", " ")} ${key[i]}`).filter(Boolean).join(", ")}`),
    el("p", {}, el("span", { class: "worth" }, value || "not measured"), ` in `, file(`tables/${name}.csv`), seeds.length > 1 ? `, the mean of ${seeds.length} seeds:` : ", of one seed:"),
    el("ul", {}, ...seeds.map(line)));
}
function showNumbersOf(columns) { // of the columns of a card
  const shelf = shelfOf(state);
  numbersOf = { shelf: shelf.name, columns, words: `${columns[0].policy}, ${[shelf.place, ...unique(columns.map(c => c.preset))].filter(Boolean).join(", ")}, seed ${shelf.seed}` };
  drawNumbers();
  byId("h-numbers").scrollIntoView();
}
async function drawNumbers() {
  const chosen = byId("choose").elements.table.value, asked = byId("choose").elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  byId("choose").querySelector("button").hidden = !numbersOf;
  byId("choose").querySelector("button").textContent = numbersOf ? `only of ${numbersOf.words} ✕` : "";
  if (!chosen && !numbersOf && !asked.length) { byId("numbers").replaceChildren(); byId("left").textContent = ""; return; }
  try {
    const numbers = await load("numbers");
    const own = at => { if (at === null) return false; const c = numbers.columns[at]; return c[0] === numbersOf.shelf && numbersOf.columns.some(o => o.policy === c[1] && (o.preset === c[2])); };
    const rows = [];
    for (const name of Object.keys(index.tables)) if (!chosen || chosen === name) for (const cell of numbers.tables[name].cells) {
      const table = numbers.tables[name];
      const words = [index.tables[name], ...cell[0]].join(" ").toLowerCase();
      if (asked.every(word => words.includes(word)) && (!numbersOf || cell[2].some(seed => seed[4].some(side => own(side[2]))))) rows.push([name, table, cell]);
    }
    byId("numbers").replaceChildren(
      el("thead", {}, el("tr", {}, ...["table", "cell", "number"].map(h => el("th", { scope: "col" }, h)))),
      el("tbody", {}, ...rows.slice(0, 200).map(([name, table, [key, value]]) => el("tr", {},
        el("th", { scope: "row" }, index.tables[name]), el("td", {}, table.keys.map((k, i) => key[i] && `${k.replaceAll("_", " ")} ${key[i]}`).filter(Boolean).join(", ")),
        el("td", {}, link(value || "not measured", address({ table: name, ...Object.fromEntries(table.keys.map((k, i) => [k, key[i]])) }), { onclick: () => scrollTo(0, 0) }))))));
    byId("left").textContent = rows.length > 200 ? `${rows.length - 200} further numbers: type a word to find them.` : `${rows.length} numbers.`;
  } catch (error) { byId("left").textContent = `Not shown: ${error.message}.`; }
}
byId("choose").append(
  el("label", {}, "table", el("select", { name: "table", onchange: drawNumbers }, el("option", { value: "" }, "choose"), ...Object.entries(index.tables).map(([name, words]) => el("option", { value: name }, words)))),
  el("label", {}, "words in it", el("input", { type: "search", name: "search", oninput: drawNumbers })),
  el("button", { type: "button", hidden: true, onclick: () => { numbersOf = null; drawNumbers(); } }));
byId("choose").addEventListener("submit", event => event.preventDefault());
byId("filters").addEventListener("submit", event => event.preventDefault());
addEventListener("hashchange", render);
render();
