// The table as it is shown, in other forms: made from the page, copied or saved, never sent.
for (const { table, bar, titles, body } of tables) {
  const shown = (title) => title.offsetParent !== null;
  const isScore = (title) => title.classList.contains("mean") || title.classList.contains("task");
  const withSpans = () => !table.classList.contains("no-spans");

  // Rows and columns as they stand: each cell with its words, its value and its interval.
  const read = () => {
    const columns = titles.map((title, index) => ({ title, index })).filter(({ title }) => shown(title));
    const rows = [...body.rows].filter((row) => !row.hidden);
    const cell = (row, { title, index }) => {
      const found = row.cells[index];
      if (title.dataset.key === "rank") return { text: found.dataset.v ?? "", tie: found.querySelector("sup").textContent };
      if (title.dataset.key === "model") return { text: found.querySelector("a").textContent };
      const value = found.dataset.v;
      return { text: value === undefined ? "" : found.firstChild.textContent, value, span: found.dataset.i ?? "", score: isScore(title) };
    };
    const cells = rows.map((row) => columns.map((column) => cell(row, column)));
    columns.forEach((column, place) => {
      const texts = cells.map((row) => (row[place].score && row[place].value !== undefined ? Number(row[place].text) : NaN));
      const best = Math.max(...texts.filter((text) => !Number.isNaN(text)));
      cells.forEach((row, index) => { row[place].best = texts[index] === best; });
    });
    return { heads: columns.map(({ title }) => ({ name: title.dataset.name, score: isScore(title) })), cells };
  };

  const csv = ({ heads, cells }) => {
    const spans = withSpans();
    const safe = (text) => (/^[\s]*[=+\-@'＝＋－＠\t\r\n]/.test(text) ? `'${text}` : text);
    const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const fraction = (percent) => (percent ? (Number(percent) / 100).toFixed(3) : "");
    const ends = (span) => (span ? span.split("–").map(fraction) : ["", ""]);
    const head = heads.flatMap(({ name, score }) => (score && spans ? [name, `${name} low`, `${name} high`] : [name]));
    const lines = cells.map((row) => row.flatMap((cell) => {
      if (cell.score) return spans ? [cell.value ?? "", ...ends(cell.span)] : [cell.value ?? ""];
      return [cell.value ?? safe(cell.text)];
    }));
    return [head.map(safe), ...lines].map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  };

  const withSpan = (text, cell) => (withSpans() && cell.span ? `${text} (${cell.span})` : text);

  const markdown = ({ heads, cells }) => {
    const plain = (text) => text.replace(/[\\`*_[\]<>|~#&]/g, "\\$&");
    const words = (cell) => {
      const text = plain(cell.text) + (cell.tie ? ` ${cell.tie}` : "");
      return withSpan(cell.best ? `**${text}**` : text, cell);
    };
    const line = (texts) => `| ${texts.join(" | ")} |`;
    const rule = heads.map(({ name }) => (name === "Model" ? "---" : "---:"));
    return [line(heads.map(({ name }) => plain(name))), line(rule), ...cells.map((row) => line(row.map(words)))].join("\n") + "\n";
  };

  const latex = ({ heads, cells }) => {
    const SIGNS = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$", "…": "\\dots{}" };
    const plain = (text) => text.replace(/[\\~^–−…]|[&%$#_{}]/g, (sign) => SIGNS[sign] ?? `\\${sign}`);
    const words = (cell) => {
      const text = plain(cell.text) + (cell.tie ? `$^{${cell.tie}}$` : "");
      const set = cell.best ? `\\textbf{${text}}` : text;
      return withSpans() && cell.span ? `${set} {\\scriptsize (${plain(cell.span)})}` : set;
    };
    const line = (texts) => `${texts.join(" & ")} \\\\`;
    return [
      `% ${heads.length} columns; needs \\usepackage{booktabs}`,
      `\\begin{tabular}{${heads.map(({ name }) => (name === "Model" ? "l" : "r")).join("")}}`,
      "\\toprule", line(heads.map(({ name }) => plain(name))), "\\midrule",
      ...cells.map((row) => line(row.map(words))),
      "\\bottomrule", "\\end{tabular}", "",
    ].join("\n");
  };

  const FORMS = { csv: [csv, "csv", "text/csv"], markdown: [markdown, "md", "text/markdown"], latex: [latex, "tex", "text/x-tex"] };
  const made = (form) => (form === "link" ? location.href : FORMS[form][0](read()));
  const say = (words) => { bar.querySelector('[data-tool="status"]').textContent = words; };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = document.createElement("textarea");
      area.className = "away";
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };

  const save = (form) => {
    const [, ending, type] = FORMS[form];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([made(form)], { type: `${type};charset=utf-8` }));
    link.download = `${table.dataset.name.replace(/[^\w.-]+/g, "-") || "leaderboard"}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };

  const menu = bar.querySelector(".menu");
  menu.addEventListener("click", async (event) => {
    const { copy: form, save: file } = event.target.dataset;
    if (form) say((await copy(made(form))) ? "copied" : "the browser does not let this page copy");
    if (file) save(file);
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { menu.open = false; menu.querySelector("summary").focus(); }
  });
  document.addEventListener("click", (event) => { if (menu.open && !menu.contains(event.target)) menu.open = false; });
}
