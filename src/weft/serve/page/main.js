// The page: which view is shown, what the server has, and the settings.

import { ask, readKey, settings, writeKey } from "./api.js";
import * as compare from "./compare.js";
import { $, h } from "./dom.js";
import * as library from "./library.js";
import * as make from "./make.js";
import * as mix from "./mix.js";

const VIEWS = ["compare", "make", "mix", "library"];
let cards = null;

function view() {
  const wanted = location.hash.slice(1);
  return VIEWS.includes(wanted) ? wanted : VIEWS[0];
}

function turn() {
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector(`nav a[href="#${view()}"]`).textContent} · Weft`;
  if (view() === "library" && cards) library.load(cards);
}

/** What the server has: names for the fields, cards for the map. */
async function learn() {
  $("trouble").textContent = "";
  try {
    const [models, told] = await Promise.all(
      ["/v1/models", "/v1/adapters"].map(async (path) => (await ask(path)).json()),
    );
    cards = told.data;
    $("base").textContent = models.data[0].id;
    $("names").replaceChildren(
      ...["base", ...models.data.slice(1).map((one) => one.id)].map((value) => h("option", { value })),
    );
    const own = cards.map((card) => card.name);
    if (!$("side-0").value && !$("side-1").value) compare.choose("base", own[0] ?? "base");
    if (!mix.chosen() && own.length) mix.choose(...own.slice(0, 2));
    make.suggest(cards);
    if (view() === "library") library.load(cards);
  } catch (error) {
    $("trouble").textContent = error.status === 401 ? "This server asks for an API key: give it in Settings." : error.message;
  }
}

$("open-settings").addEventListener("click", () => {
  $("key").value = readKey();
  $("settings").returnValue = "";
  $("settings").showModal();
});
$("settings").addEventListener("close", () => {
  if ($("settings").returnValue !== "save") return;
  writeKey($("key").value.trim());
  settings.temperature = Number($("temperature").value) || 0;
  settings.longest = Number($("longest").value) || null;
  learn();
});

compare.start();
make.start(learn);
mix.start();
library.start((name, ...names) => {
  ({ compare, mix })[name].choose(...names);
  location.hash = name;
});
addEventListener("hashchange", () => {
  turn();
  $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
turn();
learn();
