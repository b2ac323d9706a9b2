// The queries behind a score: filters, pictures drawn when a query is opened, keys, addresses.
// What comes from data is only ever set as text, or as the source of a picture.
(() => {
  "use strict";
  const RIGHT = "2", NAMES = { wrong: "0", tied: "1", right: RIGHT };
  const store = document.getElementById("ex-pictures");
  let sources = null;

  const draw = (part) => {
    for (const picture of part.querySelectorAll("img[data-picture]:not([src])")) {
      sources ??= JSON.parse(store.textContent);
      const found = sources[Number(picture.dataset.picture)];
      if (found && found[0].startsWith("data:image/")) picture.src = found[0];
    }
  };

  // Small pictures stand in the lines of a list: drawn when the list comes into sight.
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "200px" });

  // A digit for each model says what it made of a query; "" chooses every model, or some model.
  const flipped = (states, first, second) => {
    const chosen = (index) => (index === "" ? [...states] : [states[Number(index)]]);
    return chosen(first).includes(RIGHT) && chosen(second).some((state) => state !== RIGHT);
  };
  const fits = (states, state, first, second) => {
    if (!state) return true;
    if (state === "flipped") return flipped(states, first, second);
    const chosen = first === "" ? [...states] : [states[Number(first)]];
    return chosen.every((one) => one === NAMES[state]);
  };

  const filter = (group) => {
    const form = group.querySelector(".ex-filter");
    const value = (name) => form.querySelector(name)?.value ?? "";
    const state = value(".ex-state"), first = value(".ex-first"), second = value(".ex-second");
    const inside = form.querySelector(".ex-in"), against = form.querySelector(".ex-against");
    if (inside) {
      inside.hidden = !state;
      against.hidden = state !== "flipped";
      inside.querySelector("span").textContent = state === "flipped" ? "right in" : "in";
      inside.querySelector("option").textContent = state === "flipped" ? "some model" : "every model";
    }
    const queries = [...group.querySelectorAll(".ex-query")];
    for (const query of queries) query.hidden = !fits(query.dataset.states, state, first, second);
    const shown = queries.filter((query) => !query.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${queries.length}`;
  };

  const opened = (query) => {
    draw(query);
    const wanted = new URLSearchParams(location.hash.slice(1));
    const task = query.closest(".examples"), version = query.closest(".ex-group").dataset.version;
    wanted.set("task", task.dataset.task);
    wanted.set("q", query.dataset.q);
    wanted.set("suite", task.dataset.suite);
    wanted.delete("at");
    wanted.delete("data");
    if (version !== "0") wanted.set("data", version);
    try { history.replaceState(null, "", `#${wanted}`); } catch { /* not allowed here */ }
  };

  const find = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (!wanted.has("task")) return;
    const suite = wanted.get("suite"), version = wanted.get("data") ?? "0";
    const task = [...document.querySelectorAll(".examples")].find(
      (one) => one.dataset.task === wanted.get("task") && (suite === null || one.dataset.suite === suite),
    );
    if (!task) return;
    const query = [...task.querySelectorAll(".ex-query")].find(
      (one) => one.dataset.q === wanted.get("q") && one.closest(".ex-group").dataset.version === version,
    );
    const target = query ?? task;
    target.hidden = false;
    if (!query && wanted.has("q")) {
      task.querySelector(".ex-filter output").textContent = `Query ${wanted.get("q")} is not among those listed.`;
    }
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    target.dispatchEvent(new CustomEvent("ex-show", { bubbles: true }));
    target.scrollIntoView({ block: query ? "center" : "start" });
    query?.querySelector("summary").focus({ preventScroll: true });
  };

  const STEPS = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
  const step = (event) => {
    const query = event.target.closest?.(".ex-query");
    if (!query || !(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
    const queries = [...query.parentElement.children].filter((one) => !one.hidden);
    const next = queries[queries.indexOf(query) + STEPS[event.key]];
    if (!next) return;
    event.preventDefault();
    if (query.open) {
      query.open = false;
      next.open = true;
    }
    next.querySelector("summary").focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  };

  for (const group of document.querySelectorAll(".ex-group")) {
    const form = group.querySelector(".ex-filter");
    form.hidden = false;
    form.addEventListener("input", () => filter(group));
    form.addEventListener("submit", (event) => event.preventDefault());
    filter(group);
    for (const line of group.querySelectorAll(".ex-query > summary")) watch.observe(line);
  }
  document.addEventListener("toggle", (event) => {
    if (event.target.open && event.target.classList.contains("ex-query")) opened(event.target);
  }, true);
  document.addEventListener("keydown", step);
  addEventListener("hashchange", find);
  find();
})();
