// Before anything is drawn: that there is a script, and the light that was chosen.
document.documentElement.classList.add("js");
(() => {
  "use strict";
  let theme = new URLSearchParams(location.hash.slice(1)).get("theme");
  if (!theme) try { theme = localStorage.getItem("mmeb-harness-theme"); } catch { /* not allowed here */ }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
