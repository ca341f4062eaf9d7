// Draws charts anew with Vega when they come near: values under the pointer, zoom, a logarithmic axis.
"use strict";

const charts = (() => {
  const here = document.currentScript.src;
  const shown = new WeakMap(); // place -> its Vega view, and a function that fits it to the place
  let library;

  // The library is large: it is loaded once, and only where a chart is looked at.
  const load = () => library ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.addEventListener("load", () => done(window.vegaEmbed));
    script.addEventListener("error", failed);
    script.src = new URL("vega.js", here);
    document.head.append(script);
  });
  const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => shown.get(target)?.fit()));

  async function draw(place, spec, label) {
    const embed = await load();
    const { left, right, top, bottom } = spec.padding;
    const ratio = (spec.height + top + bottom) / (spec.width + left + right);
    const size = () => [place.clientWidth - left - right, place.clientWidth * ratio - top - bottom];
    const [width, height] = size();
    const stage = document.createElement("div");
    const { view } = await embed(stage, { ...spec, width, height },
      { actions: false, ast: true, defaultStyle: false, renderer: "svg", tooltip: { disableDefaultStyle: true } });
    shown.get(place)?.view.finalize();
    shown.set(place, { view, fit: () => {
      const [across, up] = size();
      if (across > 0 && across !== view.width()) view.width(across).height(up).runAsync();
    } });
    place.replaceChildren(stage);
    const svg = stage.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    place.classList.add("live");
    sizes.observe(place);
    return view;
  }

  // Arrow keys move over the plot as a pointer does.
  function keys(place, label) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    let [x, y] = [0.5, 0.5];
    place.tabIndex = 0;
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", `${label}. The arrow keys move over it and tell its values.`);
    place.addEventListener("keydown", (event) => {
      if (!(event.key in steps) || !shown.has(place)) return;
      event.preventDefault();
      const [right, down] = steps[event.key];
      [x, y] = [x + right / 40, y + down / 20].map((value) => Math.min(Math.max(value, 0.01), 0.99));
      const plot = place.querySelector(".background").getBoundingClientRect();
      const at = { clientX: plot.left + x * plot.width, clientY: plot.top + y * plot.height, bubbles: true };
      document.elementFromPoint(at.clientX, at.clientY)?.dispatchEvent(new PointerEvent("pointermove", at));
      document.getElementById("vg-tooltip-element")?.setAttribute("role", "status"); // is read aloud
    });
  }

  const logarithmic = (spec) => ({ ...spec, layer: spec.layer.map((layer) => {
    const y = layer.encoding.y;
    const scale = { type: spec.usermeta.log, nice: false };
    return y?.field ? { ...layer, encoding: { ...layer.encoding, y: { ...y, scale } } } : layer;
  }) });

  // A place with a specification: its first view is drawn when it is needed.
  function start(place, spec, label) {
    let [drawing, log] = [undefined, false];
    const live = () => drawing ??= draw(place, log ? logarithmic(spec) : spec, label);
    keys(place, label);
    if (spec.usermeta.log) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "log";
      button.textContent = "log";
      button.setAttribute("aria-label", "Logarithmic vertical axis");
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        log = !log;
        button.setAttribute("aria-pressed", String(log));
        drawing = undefined;
        live();
      });
      place.closest("figure").querySelector("figcaption").append(button);
    }
    lives.set(place, live);
    near.observe(place);
  }

  const lives = new WeakMap();
  const near = new IntersectionObserver((entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      near.unobserve(target);
      lives.get(target)();
    }
  }, { rootMargin: "100px" });

  for (const place of document.querySelectorAll(".chart")) {
    start(place, JSON.parse(place.querySelector("script").textContent), place.querySelector("svg").getAttribute("aria-label"));
  }
  for (const note of document.querySelectorAll(".note.live")) note.hidden = false;
  return { start, view: (place) => lives.get(place)() };
})();
