"""The contrast of the texts of a page, as WCAG 2.2 defines it."""

READABLE = 4.5
"""The contrast that WCAG 2.2, criterion 1.4.3, asks of text."""

CONTRASTS = """
const light = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const parts = css => css.match(/[\\d.]+/g).map(Number);
const luminance = css => { const [r, g, b] = parts(css).map(light); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = element => {
    const css = getComputedStyle(element).backgroundColor;
    return parts(css).length === 4 && parts(css)[3] === 0 ? ground(element.parentElement) : css;
};
return [...document.querySelectorAll("h1, p, li, label, input:not([type=hidden]), button, strong")].map(element => {
    const two = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((a, b) => b - a);
    return [element.outerHTML, (two[0] + 0.05) / (two[1] + 0.05)];
});
"""
