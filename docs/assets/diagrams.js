// The theme asks `mermaid` to draw a page's diagrams, and loads it from another server where there is none. This one
// stands in: it loads the copy beside this file when a diagram is to be drawn, so pages without one load nothing.
(() => {
  const copy = new URL("mermaid.min.js", document.currentScript.src).href;
  let settings, loading;
  const load = () =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = copy;
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
  globalThis.mermaid = {
    initialize: (given) => { settings = given; },
    async render(...diagram) {
      loading ??= load().then(() => globalThis.mermaid.initialize(settings));
      await loading;
      return globalThis.mermaid.render(...diagram);
    },
  };
})();
