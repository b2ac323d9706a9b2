// The view as it stands in the address: `#sort=-overall&find=clip`, so that it can be passed on.
// Names that are not known here (of a query, say) are left alone.
"use strict";
const view = (() => {
  const values = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const get = (name) => values().get(name) ?? "";
  const set = (changes, { step = false } = {}) => {
    const next = values();
    for (const [name, value] of Object.entries(changes)) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    const address = next.size ? `#${next}` : location.pathname + location.search;
    try {
      history[step ? "pushState" : "replaceState"](null, "", address);
    } catch {
      location.hash = `${next}`;
    }
  };
  return { get, set };
})();

// Light and dark: as the system has it, until somebody chooses.
{
  const button = document.getElementById("theme"), root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(dark()));
  };
  button.addEventListener("click", () => {
    const theme = dark() ? "light" : "dark";
    root.dataset.theme = theme;
    view.set({ theme: theme === (system.matches ? "dark" : "light") ? "" : theme });
    try { localStorage.setItem("mmeb-harness-theme", theme); } catch { /* not allowed here */ }
    show();
  });
  system.addEventListener("change", show);
  show();
}
