// One suite at a time, sections that open when a link leads into them, and pairs of runs.
const boards = [...document.querySelectorAll(".board")];
const nameOf = (board) => board.querySelector("h2").textContent;
let board = boards[0];
{
  const tabs = boards.map((one) => document.getElementById(`${one.id}-tab`));

  const choose = (chosen) => {
    board = chosen;
    boards.forEach((one, index) => {
      one.hidden = one !== chosen;
      tabs[index]?.setAttribute("aria-selected", String(one === chosen));
      if (tabs[index]) tabs[index].tabIndex = one === chosen ? 0 : -1;
    });
    for (const link of document.querySelectorAll("[data-part]")) {
      link.href = `#${chosen.id}${link.dataset.part}`;
    }
  };

  const wanted = () => boards.find((one) => nameOf(one) === view.get("suite")) ?? boards[0];

  const turn = (chosen) => {
    choose(chosen);
    view.set({ suite: chosen === boards[0] ? "" : nameOf(chosen), at: "", task: "", q: "", data: "" });
    document.dispatchEvent(new CustomEvent("board-chosen"));
  };

  if (boards.length > 1) {
    const list = document.querySelector(".suites");
    list.setAttribute("role", "tablist");
    tabs.forEach((tab, index) => {
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", boards[index].id);
      boards[index].setAttribute("role", "tabpanel");
      tab.addEventListener("click", (event) => {
        event.preventDefault();
        event.stopPropagation();
        turn(boards[index]);
      });
    });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (boards.indexOf(board) + step + boards.length) % boards.length;
      turn(boards[next]);
      tabs[next].focus();
    });
  }

  const reveal = (target) => {
    const home = target.closest(".board");
    if (home && home !== board) choose(home);
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    target.scrollIntoView({ block: "start" });
    const focus = target.tagName === "DETAILS" ? target.querySelector("summary") : target;
    if (focus === target && !target.hasAttribute("tabindex")) target.tabIndex = -1;
    focus.focus({ preventScroll: true });
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || link.hash.includes("=")) return;
    const target = document.getElementById(link.hash.slice(1));
    if (!target) return;
    event.preventDefault();
    reveal(target);
    view.set({ at: target.id, suite: board === boards[0] ? "" : nameOf(board), task: "", q: "", data: "" }, { step: true });
  });
  document.addEventListener("ex-show", (event) => {
    const home = event.target.closest(".board");
    if (home && home !== board) choose(home);
  });

  const arrive = () => {
    choose(wanted());
    const id = view.get("at") || (location.hash.includes("=") ? "" : location.hash.slice(1));
    const target = id && document.getElementById(id);
    if (target) reveal(target);
  };
  addEventListener("popstate", arrive);
  arrive();

  for (const select of document.querySelectorAll('[data-tool="pair"]')) {
    const figures = [...document.getElementById(select.dataset.for).querySelectorAll("[data-pair]")];
    const show = () => figures.forEach((figure, index) => { figure.hidden = String(index + 1) !== select.value; });
    if (figures[Number(view.get("pair")) - 1]) select.value = view.get("pair");
    select.addEventListener("input", () => {
      view.set({ pair: select.value === "1" ? "" : select.value });
      show();
    });
    show();
  }
}
