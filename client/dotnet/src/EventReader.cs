using System;
using System.IO;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>One block of a stream of server-sent events: an event, a new id, or only a sign of life.</summary>
    sealed class ServerSentEvent
    {
        /// <summary><c>null</c> if the block had none.</summary>
        internal string Id;
        internal string Name = "message";
        /// <summary><c>null</c> if the block had none: no event then.</summary>
        internal string Data;
    }

    /// <summary>Reads server-sent events (WHATWG HTML, "server-sent events").</summary>
    sealed class EventReader
    {
        /// <summary>Largest block taken, in bytes.</summary>
        internal const int BlockLimit = 16 << 20;

        static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, true);

        readonly Stream stream;
        readonly byte[] part = new byte[8192];
        int at, end, blockSize;
        bool afterReturn;

        internal EventReader(Stream stream) { this.stream = stream; }

        /// <summary>The next block; <c>null</c> at the end of the stream, and what was begun then is dropped.</summary>
        /// <exception cref="InvalidDataException">What came is no stream of events, or a block is too large.</exception>
        internal async Task<ServerSentEvent> Next(CancellationToken cancel)
        {
            var block = new ServerSentEvent();
            StringBuilder data = null;
            blockSize = 0;
            while (true)
            {
                var line = await Line(cancel).ConfigureAwait(false);
                if (line == null) return null;
                if (line.Length == 0)
                {
                    // Lines of data are joined by line feeds.
                    if (data != null) block.Data = data.ToString(0, data.Length - 1);
                    return block;
                }
                var colon = line.IndexOf(':');
                if (colon == 0) continue;
                var field = colon < 0 ? line : line.Substring(0, colon);
                var value = colon < 0 ? "" : line.Substring(colon + 1);
                if (value.StartsWith(" ", StringComparison.Ordinal)) value = value.Substring(1);
                if (field == "id" && value.IndexOf('\0') < 0) block.Id = value;
                else if (field == "event") block.Name = value;
                else if (field == "data") data = (data ?? new StringBuilder()).Append(value).Append('\n');
            }
        }

        /// <summary>One line, ended by a carriage return, a line feed, or both.</summary>
        async Task<string> Line(CancellationToken cancel)
        {
            var line = new MemoryStream();
            while (true)
            {
                if (at == end)
                {
                    end = await stream.ReadAsync(part, 0, part.Length, cancel).ConfigureAwait(false);
                    at = 0;
                    if (end == 0) return null;
                }
                var b = part[at++];
                var second = afterReturn && b == '\n';
                afterReturn = b == '\r';
                if (second) continue;
                if (b == '\r' || b == '\n') break;
                if (++blockSize > BlockLimit) throw new InvalidDataException("an event is larger than " + BlockLimit + " bytes");
                line.WriteByte(b);
            }
            try
            {
                return Utf8.GetString(line.ToArray());
            }
            catch (DecoderFallbackException)
            {
                throw new InvalidDataException("an event isn't UTF-8");
            }
        }
    }
}
