// The library as a map: what lies near what, and the card of the one that is chosen.

import { ask, download } from "./api.js";
import { $, h, svg } from "./dom.js";

let laid = null;
let cards = new Map();
let go = () => {};

const place = (one) => [one.x, -one.y];
const found = (name) => laid.adapters.find((one) => one.name === name);
const thread = (one) => (one.cluster < 0 ? 0 : one.cluster + 1);

function draw() {
  const centres = new Set(laid.clusters.map((cluster) => cluster.centre));
  const lines = laid.adapters.map((one) => {
    const [x1, y1] = place(one);
    const [x2, y2] = place(found(one.nearest[0].name));
    return svg("line", { x1, y1, x2, y2 });
  });
  const points = laid.adapters.map((one) => {
    const [x, y] = place(one);
    const left = x > 0.3;
    const label = svg("text", { x: left ? x - 0.045 : x + 0.045, y: y + 0.015, "text-anchor": left ? "end" : "start" });
    label.textContent = one.name;
    const group = svg(
      "g",
      { class: `thread-${thread(one)}${centres.has(one.name) ? " centre" : ""}`, "data-name": one.name },
      svg("circle", { cx: x, cy: y }),
      svg("circle", { cx: x, cy: y, class: "reach" }),
      label,
    );
    group.addEventListener("click", () => show(one.name));
    return group;
  });
  $("map").replaceChildren(svg("g", { class: "lines" }, ...lines), ...points);

  const groups = [...laid.clusters.map((cluster) => cluster.cluster), -1]
    .map((cluster) => laid.adapters.filter((one) => one.cluster === cluster))
    .filter((members) => members.length);
  $("list").replaceChildren(
    ...groups.map((members) =>
      h(
        "section",
        {},
        h("h2", { textContent: members[0].cluster < 0 ? "Like no others" : `Around ${laid.clusters[members[0].cluster].centre}` }),
        ...members.map((one) => {
          const button = h("button", { type: "button", className: `thread-${thread(one)}`, textContent: one.name });
          button.dataset.name = one.name;
          button.addEventListener("click", () => show(one.name));
          return button;
        }),
      ),
    ),
  );
}

/** Give labels room: the chosen one first, then its nearest, then the centres; one without room is not shown. */
function label() {
  const taken = laid.adapters.map((one) => place(one)).map(([x, y]) => [x - 0.035, y - 0.035, x + 0.035, y + 0.035]);
  const rank = (group) => ["chosen", "near", "centre"].findIndex((kind) => group.classList.contains(kind));
  const groups = [...$("map").querySelectorAll("g[data-name]")].filter((group) => rank(group) >= 0);
  for (const group of groups.sort((a, b) => rank(a) - rank(b))) {
    const [x, y] = place(found(group.dataset.name));
    const text = group.querySelector("text");
    const wide = text.getComputedTextLength();
    const high = parseFloat(getComputedStyle(text).fontSize);
    const sides = [
      [x + 0.045, y + high / 3, x + 0.045, "start"],
      [x - 0.045 - wide, y + high / 3, x - 0.045, "end"],
      [x - wide / 2, y - 0.05, x, "middle"],
      [x - wide / 2, y + 0.042 + high, x, "middle"],
    ];
    const boxOf = ([left, base]) => [left, base - high * 0.85, left + wide, base + high * 0.25];
    const free = ([left, top, right, bottom]) =>
      left > -1.12 && right < 1.12 && taken.every((box) => right < box[0] || left > box[2] || bottom < box[1] || top > box[3]);
    const side = sides.find((one) => free(boxOf(one)));
    group.classList.toggle("hushed", !side);
    const [, base, at, anchor] = side ?? sides[0];
    text.setAttribute("x", at);
    text.setAttribute("y", base);
    text.setAttribute("text-anchor", anchor);
    if (side) taken.push(boxOf(side));
  }
}

function show(name) {
  const one = found(name);
  const near = new Set(one.nearest.map((other) => other.name));
  for (const group of $("map").querySelectorAll("g[data-name]")) {
    group.classList.toggle("chosen", group.dataset.name === name);
    group.classList.toggle("near", near.has(group.dataset.name));
    if (group.dataset.name === name) $("map").append(group); // on top of the others
  }
  const [x1, y1] = place(one);
  $("map").querySelectorAll("line.of").forEach((line) => line.remove());
  const lines = one.nearest.map((other) => {
    const [x2, y2] = place(found(other.name));
    return svg("line", { x1, y1, x2, y2, class: `of thread-${thread(one)}` });
  });
  $("map").querySelector(".lines").append(...lines);
  label();
  for (const button of $("list").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.name === name));
  }

  const card = cards.get(name) ?? {};
  const facts = { rank: card.rank, matrices: card.sites, sha256: card.sha256?.slice(0, 16) };
  const actions = [
    ["Ask it", "primary", () => go("compare", "base", name)],
    ["Mix with its nearest", "plain", () => go("mix", name, one.nearest[0].name)],
    ["Download", "quiet", () => download(name)],
  ].map(([textContent, className, act]) => {
    const button = h("button", { type: "button", className, textContent });
    button.addEventListener("click", act);
    return button;
  });
  $("card").className = `card thread-${thread(one)}`;
  $("card").replaceChildren(
    h("h2", { textContent: name }),
    ...(card.description ? [h("p", { className: "about", textContent: card.description })] : []),
    h("dl", {}, ...Object.entries(facts).filter(([, value]) => value !== undefined).flatMap(([key, value]) => [h("dt", { textContent: key }), h("dd", { className: "name", textContent: value })])),
    h("h3", { textContent: "Most alike, by the cosine of what they change" }),
    h("ul", {}, ...one.nearest.map((other) => {
      const button = h(
        "button",
        { type: "button" },
        h("span", { textContent: other.name }),
        h("span", { textContent: other.cosine.toFixed(2) }),
        h("meter", { min: 0, max: 1, value: Math.max(other.cosine, 0), ariaLabel: `cosine ${other.cosine.toFixed(2)}` }),
      );
      button.addEventListener("click", () => show(other.name));
      return h("li", {}, button);
    })),
    h("p", { className: "actions" }, ...actions),
  );
}

/** Fetch the map, and show the adapter that is most like others. */
export async function load(known) {
  cards = new Map(known.map((card) => [card.name, card]));
  if (!laid) $("library-lead").textContent = "The map is being drawn; the first time that takes a moment.";
  try {
    laid = await (await ask("/v1/map")).json();
  } catch (error) {
    $("library-lead").textContent = error.message;
    return;
  }
  $("library-lead").textContent =
    `${laid.adapters.length} adapters. Near means alike; a line leads from each to the one it is most like. ` +
    `For ${Math.round(laid.nearest_kept * 100)}\u00a0% of them that one is also among the three nearest here; how far apart groups are means nothing.`;
  draw();
  show(laid.clusters[0]?.centre ?? laid.adapters[0].name);
}

export function start(onGo) {
  go = onGo;
}
