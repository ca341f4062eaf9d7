// Opens the entry of the stage that a box of the graph, or a link from a run, leads to.
"use strict";

const open = () => {
  const entry = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (entry instanceof HTMLDetailsElement) {
    entry.open = true;
    entry.scrollIntoView();
  }
};
window.addEventListener("hashchange", open);
open();
