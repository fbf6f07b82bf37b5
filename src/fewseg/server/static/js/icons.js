/** The page's icons: strokes on a 24-pixel square, drawn for this page. */

const NS = "http://www.w3.org/2000/svg";

/** @type {Record<string, string[]>} */
const PATHS = {
  back: ["M15 5l-7 7 7 7"],
  next: ["M9 5l7 7-7 7"],
  brush: ["M20 4l-9.5 9.5", "M9 12.5a3.5 3.5 0 0 1 2.6 3.4C11.6 18.5 9.5 20 6.5 20H3.500c1.3-.8 1.8-1.9 1.9-3.400A3.7 3.7 0 0 1 9 12.500z"],
  eraser: ["M14.5 4.500l5.5 5.5-8.5 8.500H8L3.5 14z", "M9 10l5.5 5.5", "M11 19.500h9.5"],
  polygon: ["M5 9l8-5 7 7-4 9H7z", "M5 9h.01M13 4h.01M20 11h.01M16 20h.01M7 20h.01"],
  outline: ["M6 7l9-2 4 8-6 6-8-3z", "M6 5.500a1.5 1.5 0 1 1 0 3 1.5 1.5 0 0 1 0-3zM15 3.500a1.5 1.5 0 1 1 0 3 1.5 1.5 0 0 1 0-3zM19 11.500a1.5 1.5 0 1 1 0 3 1.5 1.5 0 0 1 0-3z"],
  piece: ["M4 9c0-3 3-5 6-4s4 4 2 7-4 4-6 2-2-3-2-5z", "M15 15l5 5M20 15l-5 5"],
  box: ["M5 5h3M11 5h3M17 5h2v2M19 11v3M19 17v2h-2M13 19h-3M7 19H5v-2M5 13v-3"],
  superpixel: ["M4 7l6-3 5 4-1 6-7 2-4-4z", "M15 8l5-1 1 8-5 5-7-1-2-3", "M14 14l2 6"],
  grow: ["M12 12h.01", "M12 8.500a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7z", "M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.600L7 7M17 17l1.4 1.400M18.4 5.600L17 7M7 17l-1.4 1.4"],
  scribble: ["M4 16c3-8 6-11 7.5-9.500S8 14 10 15.5 16 8 17.5 9.5 14 17 16 18s3-1 4-2.5"],
  hand: ["M8 12.500V6.200a1.4 1.4 0 0 1 2.8 0V11 4.900a1.4 1.4 0 0 1 2.8 0V11 6.200a1.4 1.4 0 0 1 2.8 0V12 8.700a1.4 1.4 0 0 1 2.6 0V15a6 6 0 0 1-6 6h-1.200a6 6 0 0 1-4.7-2.300L4 14.600a1.5 1.5 0 0 1 2.3-1.900z"],
  undo: ["M8 5L4 9l4 4", "M4 9h9.500a5.5 5.5 0 0 1 0 11H9"],
  redo: ["M16 5l4 4-4 4", "M20 9h-9.500a5.5 5.5 0 0 0 0 11H15"],
  export: ["M12 4v11M8 8l4-4 4 4", "M5 14v4.500A1.5 1.5 0 0 0 6.5 20h11a1.5 1.5 0 0 0 1.5-1.500V14"],
  help: ["M9.2 9.300a2.9 2.9 0 1 1 4.3 2.500c-1 .6-1.5 1.2-1.5 2.4", "M12 17.500h.01", "M12 3.500a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17z"],
  sun: ["M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8z", "M12 3v1.500M12 19.500V21M3 12h1.500M19.5 12H21M5.6 5.600l1.1 1.100M17.3 17.300l1.1 1.100M18.4 5.600l-1.1 1.100M6.7 17.300l-1.1 1.1"],
  moon: ["M19.5 14.500A8 8 0 0 1 9.5 4.500a8 8 0 1 0 10 10z"],
  contrast: ["M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16z", "M12 4v16", "M12 8h5M12 12h7.500M12 16h5"],
  plus: ["M12 5v14M5 12h14"],
  minus: ["M5 12h14"],
  check: ["M5 12.500l4.5 4.500L19 7.5"],
  close: ["M6 6l12 12M18 6L6 18"],
  eye: ["M3 12s3.3-6 9-6 9 6 9 6-3.3 6-9 6-9-6-9-6z", "M12 9.500a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z"],
  hidden: ["M4 4l16 16", "M9.5 6.400A9 9 0 0 1 12 6c5.7 0 9 6 9 6a15 15 0 0 1-2.6 3.300M6 8.200A15 15 0 0 0 3 12s3.3 6 9 6a9 9 0 0 0 3.5-.7"],
  edit: ["M4 20l1-4L16.5 4.500l3 3L8 19z", "M14.5 6.500l3 3"],
  star: ["M12 4l2.5 5.1 5.5.8-4 3.9 1 5.5-5-2.6-5 2.6 1-5.5-4-3.9 5.5-.8z"],
  fit: ["M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5"],
  warning: ["M12 4l9 16H3z", "M12 10v4.500M12 17.300h.01"],
  clock: ["M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16z", "M12 8v4.500l3 2"],
  sort: ["M7 5v14M4 16l3 3 3-3", "M13 7h7M13 12h5M13 17h3"],
  trash: ["M5 7h14M10 4h4M7 7l1 13h8l1-13", "M10.5 11v5M13.5 11v5"],
};

/** @param {string} name @returns {SVGSVGElement} decoration: the control around it carries the name */
export function icon(name) {
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const data of PATHS[name] ?? []) {
    const path = document.createElementNS(NS, "path");
    path.setAttribute("d", data);
    svg.append(path);
  }
  return svg;
}
