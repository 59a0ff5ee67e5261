"use strict";
// Models wrote these texts: they come into the page as text nodes, and never as markup.
const PER_PAGE = 50, TYPING_MS = 150;
const ENDS = { stop: "ended by itself", length: "cut off" };
const byId = (id) => document.getElementById(id);
const items = JSON.parse(byId("items").textContent);
const list = byId("list"), search = byId("search"), place = byId("place"), previous = byId("previous"), next = byId("next");
let found = items, page = 0, filter = "", typing = 0;

function add(parent, tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function addText(parent, [shownText, leftOut], className, ofEnd = 0) {
  // Python counts characters, and a string's length here counts some of them as two.
  const characters = [...shownText], text = characters.slice(0, characters.length - ofEnd).join("");
  const end = characters.slice(characters.length - ofEnd).join("");
  const shown = add(parent, "pre", className, text);
  if (!text) add(shown, "span", "quiet", "(empty)");
  const after = end ? " …" : "";
  if (leftOut) add(parent, "p", "quiet", `… ${leftOut.toLocaleString("en")} more characters are left out here${after}`);
  if (end) add(parent, "pre", className, end);
}

function addReply(parent, reply) {
  const part = add(parent, "div", "completion");
  const who = add(part, "p", "who");
  add(who, "b", reply.model, reply.model);
  if (reply.sample !== undefined) add(who, "span", "quiet", ` sample ${reply.sample}`);
  who.append(" ");
  add(who, "span", `pill ${reply.outcome}`, reply.outcome.replace("_", " "));
  who.append(" ");
  const said = [];
  if (reply.tokens !== null) said.push(`${reply.tokens} token${reply.tokens === 1 ? "" : "s"}`);
  if (reply.votes) said.push(reply.votes === 1 ? "the only sample with its answer" : `${reply.votes} samples have its answer`);
  if (reply.ended) said.push(ENDS[reply.ended] ?? reply.ended);
  add(who, "span", "quiet", said.join(", "));
  if (reply.thought) {
    const thought = add(part, "details", "inner");
    add(thought, "summary", "", reply.completion ? "thought" : "thought, which doesn't end");
    addText(thought, reply.thought, "text", reply.ends?.thought);
  }
  if (reply.completion) addText(part, reply.completion, "text", reply.ends?.completion);
  const read = add(part, "p", "quiet", reply.answer === null ? "no answer found, rule " : "read as ");
  if (reply.answer !== null) {
    add(read, "code", "", reply.answer);
    read.append(", rule ");
  }
  read.append(reply.rule);
}

function fill(row, item) {
  const inside = add(row, "div", "inside");
  add(inside, "p", "quiet", item.id);
  const fields = add(inside, "dl", "fields");
  for (const [name, ...text] of item.fields) {
    add(fields, "dt", "", name);
    addText(add(fields, "dd"), text, "field");
  }
  const side = add(inside, "div", "side");
  for (const reply of item.replies) addReply(side, reply);
}

function reads(item) {
  const texts = item.replies.map((reply) => reply.answer ?? "none").map((text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text));
  return `read as ${texts.join(" → ")}`;
}

function shares(item) {
  const models = [...new Set(item.replies.map((reply) => reply.model))];
  const of = (model) => item.replies.filter((reply) => reply.model === model);
  const texts = models.map((model) => `${of(model).filter((reply) => reply.outcome === "correct").length} of ${of(model).length}`);
  return `samples that are right: ${texts.join(" → ")}`;
}

function addRow(item) {
  const row = add(list, "details", "item");
  const line = add(row, "summary");
  add(line, "span", "gist", item.gist);
  add(line, "span", "quiet", ` ${item.kind}, ${item.replies.some((reply) => reply.sample !== undefined) ? shares(item) : reads(item)}`);
  row.addEventListener("toggle", () => fill(row, item), { once: true });
}

function show() {
  const last = Math.max(Math.ceil(found.length / PER_PAGE) - 1, 0);
  page = Math.min(Math.max(page, 0), last);
  const start = page * PER_PAGE, end = Math.min(start + PER_PAGE, found.length);
  list.replaceChildren();
  for (const item of found.slice(start, end)) addRow(item);
  place.textContent = found.length ? `${start + 1}–${end} of ${found.length}` : "no item fits";
  previous.disabled = page === 0;
  next.disabled = page === last;
}

function textOf(item) {
  item.text ??= [
    item.id,
    ...item.fields.map(([, text]) => text),
    ...item.replies.flatMap((reply) => [reply.thought, reply.completion].map((text) => (text ? text[0] : ""))),
  ].join("\n").toLowerCase();
  return item.text;
}

function find() {
  const text = search.value.toLowerCase();
  found = items.filter((item) => (!filter || item.filters.includes(filter)) && (!text || textOf(item).includes(text)));
  page = 0;
  show();
}

function turn(pages) {
  page += pages;
  show();
  list.scrollIntoView({ block: "nearest" });
}

search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(find, TYPING_MS);
});
for (const choice of document.querySelectorAll("input[name=filter]")) {
  choice.addEventListener("change", () => {
    filter = choice.value;
    find();
  });
}
previous.addEventListener("click", () => turn(-1));
next.addEventListener("click", () => turn(1));
// A browser that comes back to the page keeps what was typed and chosen.
filter = document.querySelector("input[name=filter]:checked").value;
find();
