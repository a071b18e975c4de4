using System.Drawing;
using System.Drawing.Drawing2D;
using System.Windows.Forms;

namespace WallController
{
    /// <summary>One screen of the wall: what it shall show, what it shows, and whether that is the same.</summary>
    sealed class NodeTile : Control
    {
        static readonly Color Light = Color.FromArgb(228, 233, 241);
        static readonly Color InStep = Color.FromArgb(78, 196, 122), Behind = Color.FromArgb(226, 150, 30), Nothing = Color.FromArgb(146, 154, 168);

        readonly Font title = new Font("Sans", 11.5f, FontStyle.Bold), text = new Font("Sans", 10f);
        WallNode node;
        bool selected;

        internal NodeTile()
        {
            DoubleBuffered = true;
            Dock = DockStyle.Fill;
            Margin = new Padding(5);
            Cursor = Cursors.Hand;
        }

        internal WallNode Node
        {
            get { return node; }
            set
            {
                node = value;
                Invalidate();
            }
        }

        internal bool Selected
        {
            get { return selected; }
            set
            {
                selected = value;
                Invalidate();
            }
        }

        protected override void OnResize(System.EventArgs e)
        {
            base.OnResize(e);
            Invalidate();
        }

        protected override void OnPaint(PaintEventArgs e)
        {
            var graphics = e.Graphics;
            graphics.SmoothingMode = SmoothingMode.AntiAlias;
            graphics.Clear(Parent == null ? BackColor : Parent.BackColor);
            var frame = new Rectangle(1, 1, Width - 3, Height - 3);
            var on = node != null && WallNode.Power(node.Reported);
            using (var back = new SolidBrush(on ? Color.FromArgb(34, 44, 62) : Color.FromArgb(24, 27, 34))) graphics.FillRectangle(back, frame);
            using (var pen = new Pen(selected ? Color.FromArgb(90, 160, 255) : Color.FromArgb(60, 68, 82), selected ? 3 : 1)) graphics.DrawRectangle(pen, frame);
            if (node == null) return;

            var state = node.InStep == null ? Nothing : node.InStep.Value ? InStep : Behind;
            using (var brush = new SolidBrush(state)) graphics.FillEllipse(brush, 14, 17, 12, 12);
            Draw(graphics, node.Name, title, Color.White, 34, 12);
            Draw(graphics, node.InStep == null ? "nothing desired" : node.InStep.Value ? "in step" : "on its way", text, state, 34, 38);
            Draw(graphics, "desired", text, Nothing, 14, 70);
            Draw(graphics, Words(node.Desired), text, Light, 92, 70);
            Draw(graphics, "reported", text, Nothing, 14, 94);
            Draw(graphics, node.Error ?? Words(node.Reported), text, node.InStep == false ? Behind : Light, 92, 94);
        }

        static string Words(Tanist.Client.JsonObject state)
        {
            if (state == null) return "\u2013";
            return WallNode.Power(state) ? WallNode.Source(state) ?? "no source" : "off";
        }

        void Draw(Graphics graphics, string words, Font font, Color color, int x, int y)
        {
            using (var brush = new SolidBrush(color))
            using (var format = new StringFormat { Trimming = StringTrimming.EllipsisCharacter, FormatFlags = StringFormatFlags.NoWrap })
                graphics.DrawString(words, font, brush, new RectangleF(x, y, Width - x - 8, font.Height + 2), format);
        }

        protected override void Dispose(bool disposing)
        {
            if (disposing)
            {
                title.Dispose();
                text.Dispose();
            }
            base.Dispose(disposing);
        }
    }
}
