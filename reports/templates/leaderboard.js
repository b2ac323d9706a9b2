// The leaderboard: sort, find, filter, fold, shade. The table in the page is all the data there is.
const tables = [...document.querySelectorAll(".ranks")].map((table) => {
  const home = table.closest(".board");
  const body = table.tBodies[0], rows = [...body.rows];
  const titles = [...table.querySelectorAll(".titles > th")];
  const groups = [...table.querySelectorAll(".groups > th")];
  const widths = new Map(groups.map((group) => [group, group.colSpan]));
  const widthOf = (group) => widths.get(group);
  const bar = document.querySelector(`[data-for="${table.id}"]`);
  const tool = (name) => bar.querySelector(`[data-tool="${name}"]`);
  const names = rows.map((row) => row.cells[1].textContent.toLowerCase());
  const keyOf = (title) => title.dataset.key;
  const remember = (changes) => { if (home === board) view.set(changes); };

  // -- keeping pace: a change is drawn where the reader looks, and the rows far from there follow frame
  // by frame. The table itself is whole all the time; room is kept for what is not drawn yet.
  const SPARE = 100, STEP = 1500; // pixels beyond the view: at once, and more with each frame
  const scroller = table.closest(".scroll");
  const heights = new Map();
  let reach = 0, sight = [0, 0], waiting = false;
  const draw = () => {
    const [top, bottom] = [sight[0] - reach, sight[1] + reach];
    let end = 0, above = 0, below = 0;
    for (const row of body.rows) {
      const height = row.hidden ? 0 : heights.get(row) || 40;
      const before = end + height < top, after = end > bottom;
      row.classList.toggle("far", before || after);
      end += height;
      if (before) above += height;
      else if (after) below += height;
    }
    table.style.marginTop = above ? `${above}px` : "";
    table.style.marginBottom = below ? `${below}px` : "";
    if (above || below) follow();
    else for (const title of titles) title.style.minWidth = "";
  };
  const follow = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => setTimeout(() => { // once what is there was painted
      waiting = false;
      reach += STEP;
      draw();
    }));
  };
  const change = (act) => {
    sight = [scroller.scrollTop, scroller.scrollTop + scroller.clientHeight];
    reach = SPARE;
    if (!waiting) {
      const widths = titles.map((title) => title.offsetWidth);
      for (const row of rows) if (!row.hidden) heights.set(row, row.getBoundingClientRect().height);
      titles.forEach((title, index) => { title.style.minWidth = `${widths[index]}px`; });
    }
    act();
    draw();
  };

  // -- sorting: the first click puts the best first, and what is missing always stays last
  const begins = (title) => (["rank", "model", "parameters"].includes(keyOf(title)) ? 1 : -1);
  const sort = (title, direction) => {
    const column = titles.indexOf(title);
    const words = keyOf(title) === "model";
    const values = new Map(rows.map((row) => [row, words ? row.cells[1].textContent : Number(row.cells[column].dataset.v ?? NaN)]));
    const missing = (value) => !words && Number.isNaN(value);
    const compare = (a, b) => {
      const x = values.get(a), y = values.get(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return direction * (words ? x.localeCompare(y) : x - y);
    };
    const sorted = [...rows].sort(compare);
    if (sorted.some((row, place) => row !== body.rows[place])) body.append(...sorted);
    for (const one of titles) {
      one.setAttribute("aria-sort", one !== title ? "none" : direction > 0 ? "ascending" : "descending");
    }
    table.classList.toggle("by-rank", keyOf(title) === "rank" && direction > 0);
  };
  const sortBy = (text) => {
    const key = text.replace(/^-/, "");
    const title = titles.find((one) => keyOf(one) === key);
    if (title) sort(title, text.startsWith("-") ? -1 : 1);
    else sort(titles[0], 1);
  };
  for (const title of titles) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const now = title.getAttribute("aria-sort");
      const direction = now === "none" ? begins(title) : now === "ascending" ? -1 : 1;
      change(() => sort(title, direction));
      const sorted = `${direction < 0 ? "-" : ""}${keyOf(title)}`;
      remember({ sort: sorted === "rank" ? "" : sorted });
    });
  }

  // -- finding and filtering
  const FILTERS = ["size", "kind", "complete", "clean"];
  const chosen = (name) => {
    const input = tool(name);
    return !input ? "" : input.type === "checkbox" ? (input.checked ? "1" : "") : input.value;
  };
  const filter = () => {
    const words = tool("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const size = chosen("size"), kind = chosen("kind"), complete = chosen("complete"), clean = chosen("clean");
    let shown = 0;
    rows.forEach((row, index) => {
      const data = row.dataset;
      const fits = words.every((word) => names[index].includes(word)) && (!size || data.size === size)
        && (!kind || data.kind === kind) && (!complete || "complete" in data) && (!clean || "clean" in data);
      if (row.hidden === fits) row.hidden = !fits;
      shown += fits;
    });
    const all = rows.length === 1 ? "" : `${rows.length} models`;
    tool("status").textContent = shown === rows.length ? all : `${shown} of ${rows.length}`;
    table.nextElementSibling.hidden = shown > 0;
  };
  const filtered = () => {
    change(filter);
    remember({ find: tool("find").value.trim(), ...Object.fromEntries(FILTERS.map((name) => [name, chosen(name)])) });
  };
  for (const name of ["find", ...FILTERS]) tool(name)?.addEventListener("input", filtered);
  table.nextElementSibling.querySelector("button").addEventListener("click", () => {
    tool("find").value = "";
    for (const name of FILTERS) {
      const input = tool(name);
      if (input?.type === "checkbox") input.checked = false;
      else if (input) input.value = "";
    }
    filtered();
    tool("find").focus();
  });

  // -- folding columns: a group folds to its first
  const foldable = groups.filter((group) => widthOf(group) > 1);
  const classOf = (group) => `folded-${group.dataset.number}`;
  const isOpen = (group) => !table.classList.contains(classOf(group));
  const fold = (group, open) => {
    table.classList.toggle(classOf(group), !open);
    group.colSpan = open ? widthOf(group) : 1;
    group.firstChild.setAttribute("aria-expanded", String(open));
  };
  const start = new Map(foldable.map((group) => [group, isOpen(group)]));
  const folded = () => {
    tool("tasks").checked = foldable.every(isOpen);
    const same = foldable.every((group) => isOpen(group) === start.get(group));
    remember({ open: same ? "" : foldable.filter(isOpen).map((group) => group.dataset.group).join(".") || "none" });
  };
  for (const group of foldable) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...group.childNodes);
    group.append(button);
    fold(group, isOpen(group));
    button.addEventListener("click", () => {
      change(() => fold(group, !isOpen(group)));
      folded();
    });
  }
  tool("tasks").addEventListener("input", (event) => {
    change(() => { for (const group of foldable) fold(group, event.target.checked || start.get(group)); });
    folded();
  });

  // -- what is shown in a cell
  for (const name of ["spans", "heat"]) {
    tool(name).addEventListener("input", (event) => {
      change(() => table.classList.toggle(`no-${name}`, !event.target.checked));
      remember({ [name]: event.target.checked ? "" : "off" });
    });
  }

  const arrive = () => {
    const mine = home === board;
    const got = (name) => (mine ? view.get(name) : "");
    tool("find").value = got("find");
    for (const name of FILTERS) {
      const input = tool(name);
      if (input?.type === "checkbox") input.checked = got(name) === "1";
      else if (input) input.value = [...input.options].some((option) => option.value === got(name)) ? got(name) : "";
    }
    filter();
    sortBy(got("sort") || "rank");
    const open = got("open");
    for (const group of foldable) fold(group, open ? open.split(".").includes(group.dataset.group) : start.get(group));
    tool("tasks").checked = foldable.every(isOpen);
    for (const name of ["spans", "heat"]) {
      tool(name).checked = got(name) !== "off";
      table.classList.toggle(`no-${name}`, got(name) === "off");
    }
  };
  addEventListener("popstate", arrive);
  document.addEventListener("board-chosen", () => { if (home === board) arrive(); });
  arrive();
  return { table, bar, titles, body, isOpen, groups };
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) return;
  event.preventDefault();
  board.querySelector('[data-tool="find"]').focus();
});
