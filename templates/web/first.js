// Runs before the page is drawn, so that a chosen look does not flash up as another first.
(() => {
  const root = document.documentElement;
  const chosen = (name) => {
    try {
      return JSON.parse(localStorage.getItem(`satchel.${name}`));
    } catch {
      return null; // a browser that keeps nothing, or something else that was kept
    }
  };

  function luminance(color) {
    const [red, green, blue] = color.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  function contrast(one, other) {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }

  // The accent, moved toward `end` until text in it can be read on `ground`.
  function readable(color, ground, end) {
    let made = color;
    for (let step = 0; step <= 20 && contrast(made, ground) < 5; step += 1) {
      made = color.map((part, index) => Math.round(part + ((end[index] - part) * step) / 20));
    }
    return `rgb(${made.join(" ")})`;
  }

  window.satchelLook = {
    accent(text) {
      const color = [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
      const black = [0, 0, 0];
      const white = [255, 255, 255];
      const ink = contrast(color, white) >= 4.5 ? white : black;
      const look = {
        "--accent": `rgb(${color.join(" ")})`,
        "--accent-ink": `rgb(${ink.join(" ")})`,
        "--accent-soft-light": `rgb(${color.join(" ")} / 11%)`,
        "--accent-soft-dark": `rgb(${color.join(" ")} / 32%)`,
        "--accent-line": `rgb(${color.join(" ")} / 45%)`,
        "--accent-on-light": readable(color, [244, 243, 239], black),
        "--accent-on-dark": readable(color, [34, 37, 35], white),
      };
      for (const [name, value] of Object.entries(look)) root.style.setProperty(name, value);
    },
    theme(name) {
      if (name === "light" || name === "dark") root.dataset.theme = name;
      else delete root.dataset.theme;
    },
  };
  window.satchelLook.theme(chosen("theme"));
  const accent = String(chosen("accent"));
  window.satchelLook.accent(/^#[0-9a-f]{6}$/i.test(accent) ? accent : "#2f6f4e");
  if (innerWidth >= 900 && chosen("sidebar") !== "hidden") root.dataset.sidebar = "shown";
})();
