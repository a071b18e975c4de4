; The setup program of Tanist for Windows 7 SP1 and later, 64 bits. Made by build.sh; what it takes is in docs/windows.md.
; It copies files; configuration, service, rights, firewall and event source are tanist.exe's own work.

Unicode true
Target amd64-unicode
RequestExecutionLevel admin
SetCompressor /SOLID lzma

!include "MUI2.nsh"
!include "FileFunc.nsh"
!include "LogicLib.nsh"
!include "WinVer.nsh"
!include "WordFunc.nsh"
!include "nsDialogs.nsh"
!include "x64.nsh"

; Given by build.sh: EXE, VERSION (four numbers), SHOWN (as people write it), OUT.
!define UNINSTALL "Software\Microsoft\Windows\CurrentVersion\Uninstall\Tanist"

Name "Tanist"
OutFile "${OUT}"
BrandingText "Tanist ${SHOWN}"
InstallDir "$PROGRAMFILES64\Tanist"
ShowInstDetails show
ShowUninstDetails show
VIProductVersion "${VERSION}"
VIAddVersionKey "ProductName" "Tanist"
VIAddVersionKey "ProductVersion" "${SHOWN}"
VIAddVersionKey "FileVersion" "${SHOWN}"
VIAddVersionKey "FileDescription" "Setup of Tanist, a replicated SQLite master"
VIAddVersionKey "LegalCopyright" "Apache License 2.0"

Var Parameters
Var Data        ; configuration, key, data, logs
Var Id
Var Cluster
Var Members
Var KeyFile
Var Join
Var Rank
Var PeerPort
Var HttpPort
Var Account
Var NoStart
Var NoFirewall
Var Networks    ; kinds of networks in which the firewall lets others in
Var Trust       ; 1: a data folder that isn't administrators' is believed
Var Log
Var DataAnswer  ; of the uninstaller
Var IdField
Var MembersField
Var KeyField

!define MUI_ABORTWARNING
!insertmacro MUI_PAGE_WELCOME
!insertmacro MUI_PAGE_DIRECTORY
Page custom machinePage machinePageLeave
!insertmacro MUI_PAGE_INSTFILES
!insertmacro MUI_UNPAGE_CONFIRM
!insertmacro MUI_UNPAGE_INSTFILES
!insertmacro MUI_LANGUAGE "English"

; Errors of a silent run, as exit codes: 2 wrong parameters, 3 files, 4 configuration, 5 service.
!macro Fail code text
    !insertmacro Say "${text}"
    MessageBox MB_OK|MB_ICONSTOP "${text}" /SD IDOK
    SetErrorLevel ${code}
    Abort "${text}"
!macroend

; For people who watch, and into install.log for those who don't.
!macro Say text
    DetailPrint `${text}`
    ${If} $Log != ""
        FileOpen $9 "$Log" a
        ${If} $9 != ""
            FileSeek $9 0 END
            FileWrite $9 `${text}$\r$\n`
            FileClose $9
        ${EndIf}
    ${EndIf}
!macroend

; Runs a command; $0 is its exit code.
!macro Run command
    !insertmacro Say `${command}`
    nsExec::ExecToStack `${command}`
    Pop $0
    Pop $1
    !insertmacro Say `$1 (exit code $0)`
!macroend

!macro Prepare
    SetShellVarContext all
    SetRegView 64
    StrCpy $Data "$APPDATA\Tanist"
    ${GetParameters} $Parameters
!macroend

!macro Option name default variable
    ClearErrors
    ${GetOptions} $Parameters "${name}" ${variable}
    ${If} ${Errors}
        StrCpy ${variable} "${default}"
    ${EndIf}
!macroend

; 1 if it was given.
!macro Switch name variable
    ClearErrors
    ${GetOptions} $Parameters "${name}" ${variable}
    ${If} ${Errors}
        StrCpy ${variable} "0"
    ${Else}
        StrCpy ${variable} "1"
    ${EndIf}
!macroend

Function .onInit
    !insertmacro Prepare
    ${IfNot} ${RunningX64}
        MessageBox MB_OK|MB_ICONSTOP "This setup is for 64-bit Windows. On 32 bits, take the 32-bit tanist.exe and 'tanist service install'." /SD IDOK
        SetErrorLevel 2
        Abort
    ${EndIf}
    ${IfNot} ${AtLeastWin7}
        MessageBox MB_OK|MB_ICONSTOP "Tanist needs Windows 7 SP1 or later." /SD IDOK
        SetErrorLevel 2
        Abort
    ${EndIf}
    !insertmacro Option "/NAME=" "" $Id
    !insertmacro Option "/CLUSTER=" "cluster" $Cluster
    !insertmacro Option "/HOSTS=" "" $Members
    !insertmacro Option "/KEYFILE=" "" $KeyFile
    !insertmacro Option "/JOIN=" "" $Join
    !insertmacro Option "/RANK=" "" $Rank
    !insertmacro Option "/PEERPORT=" "7450" $PeerPort
    !insertmacro Option "/HTTPPORT=" "8080" $HttpPort
    !insertmacro Option "/ACCOUNT=" "" $Account
    !insertmacro Switch "/NOSTART" $NoStart
    !insertmacro Switch "/NOFIREWALL" $NoFirewall
    !insertmacro Option "/PROFILE=" "private" $Networks
    !insertmacro Switch "/TRUSTFOLDER" $Trust
    ; Where it was installed before, unless told otherwise.
    ReadRegStr $0 HKLM "${UNINSTALL}" "InstallLocation"
    ${If} $0 != ""
    ${AndIf} $INSTDIR == "$PROGRAMFILES64\Tanist"
        StrCpy $INSTDIR $0
    ${EndIf}
    ${If} ${Silent}
    ${AndIfNot} ${FileExists} "$Data\tanist.toml"
    ${AndIf} $Id == ""
        SetErrorLevel 2
        Abort
    ${EndIf}
FunctionEnd

Function machinePage
    ${If} ${FileExists} "$Data\tanist.toml"
        Abort ; an upgrade: the configuration stays
    ${EndIf}
    !insertmacro MUI_HEADER_TEXT "This machine" "What it is in its cluster. All of this can be changed later in tanist.toml."
    nsDialogs::Create 1018
    Pop $0
    ${NSD_CreateLabel} 0 0 100% 10u "Name of this machine, for example pc-1:"
    Pop $0
    ${If} $Id == ""
        ReadEnvStr $Id COMPUTERNAME
    ${EndIf}
    ${NSD_CreateText} 0 12u 100% 12u "$Id"
    Pop $IdField
    ${NSD_CreateLabel} 0 32u 100% 18u "All machines, in the order in which they should reign (this one too), for example:$\r$\npc-1=10.0.0.1;pc-2=10.0.0.2;pc-3=10.0.0.3,witness"
    Pop $0
    ${NSD_CreateText} 0 52u 100% 12u "$Members"
    Pop $MembersField
    ${NSD_CreateLabel} 0 72u 100% 18u "Key file of another machine of the cluster (cluster.key). Leave it empty on the first machine: a new key is made there."
    Pop $0
    ${NSD_CreateFileRequest} 0 92u 80% 12u "$KeyFile"
    Pop $KeyField
    ${NSD_CreateBrowseButton} 82% 92u 18% 12u "Browse"
    Pop $0
    ${NSD_OnClick} $0 browseKey
    nsDialogs::Show
FunctionEnd

Function browseKey
    nsDialogs::SelectFileDialog open "" "Cluster key|*.key|All files|*.*"
    Pop $0
    ${If} $0 != ""
        ${NSD_SetText} $KeyField $0
    ${EndIf}
FunctionEnd

Function machinePageLeave
    ${NSD_GetText} $IdField $Id
    ${NSD_GetText} $MembersField $Members
    ${NSD_GetText} $KeyField $KeyFile
    ${If} $Id == ""
        MessageBox MB_OK|MB_ICONEXCLAMATION "This machine needs a name."
        Abort
    ${EndIf}
    ${If} $Members == ""
        MessageBox MB_YESNO|MB_ICONQUESTION|MB_DEFBUTTON2 "No machines are named: this one would stand alone, reached from nowhere else, for trying out. Is that what you want?" IDYES alone
        Abort
        alone:
    ${EndIf}
FunctionEnd

; The configuration, by `tanist init`; $0 is 0 if it is there.
Function configure
    ${If} ${FileExists} "$Data\tanist.toml"
        StrCpy $0 0
        Return
    ${EndIf}
    ; It closes the folder to others before the key is in it.
    StrCpy $2 `"$INSTDIR\tanist.exe" init --dir "$Data" --cluster "$Cluster" --id "$Id"`
    ${If} $Trust == 1
        StrCpy $2 `$2 --trust-folder`
    ${EndIf}
    ${If} $KeyFile != ""
        StrCpy $2 `$2 --key-file "$KeyFile"`
    ${EndIf}
    ${If} $Join != ""
        StrCpy $2 `$2 --join "$Join"`
        ${If} $Rank != ""
            StrCpy $Members "$Members:$PeerPort,$HttpPort,$Rank"
        ${EndIf}
    ${EndIf}
    ${If} $Members != ""
        ${WordReplace} "$Members" ";" `" --member "` "+" $3
        StrCpy $2 `$2 --member "$3"`
    ${EndIf}
    !insertmacro Run $2
FunctionEnd

Section "Tanist"
    CreateDirectory "$INSTDIR"
    StrCpy $Log "$INSTDIR\install.log"
    Delete "$Log"
    !insertmacro Say "Tanist ${SHOWN}"
    ; An upgrade: the machine hands over before its program is replaced.
    ${If} ${FileExists} "$INSTDIR\tanist.exe"
        !insertmacro Run `"$INSTDIR\tanist.exe" service stop`
    ${EndIf}
    SetOutPath "$INSTDIR"
    ClearErrors
    SetOverwrite try
    File "/oname=tanist.exe" "${EXE}"
    ${If} ${Errors}
        !insertmacro Run `"$INSTDIR\tanist.exe" service start`
        !insertmacro Fail 3 "$INSTDIR\tanist.exe can't be written: end the programs that use it, and run this setup again. The old version stays."
    ${EndIf}
    WriteUninstaller "$INSTDIR\uninstall.exe"
    Call configure
    ${If} $0 != 0
        !insertmacro Fail 4 "The configuration could not be made, see $INSTDIR\install.log: $1"
    ${EndIf}
    StrCpy $2 `"$INSTDIR\tanist.exe" service install --config "$Data\tanist.toml"`
    ${If} $Account != ""
        StrCpy $2 `$2 --account "$Account"`
    ${EndIf}
    ${If} $Trust == 1
        StrCpy $2 `$2 --trust-folder`
    ${EndIf}
    !insertmacro Run $2
    ${If} $0 != 0
        !insertmacro Fail 5 "The service could not be installed, see $INSTDIR\install.log: $1"
    ${EndIf}
    ${If} $NoFirewall != 1
        ; Firewalls of others, and editions without one, are no reason to give up.
        !insertmacro Run `"$INSTDIR\tanist.exe" service firewall --config "$Data\tanist.toml" --profile "$Networks"`
        ${If} $0 != 0
            !insertmacro Say "The firewall rules could not be made: let the other machines pass to the peer port and clients to the HTTP port yourself."
        ${EndIf}
    ${EndIf}
    WriteRegStr HKLM "${UNINSTALL}" "DisplayName" "Tanist"
    WriteRegStr HKLM "${UNINSTALL}" "DisplayVersion" "${SHOWN}"
    WriteRegStr HKLM "${UNINSTALL}" "Publisher" "Tanist"
    WriteRegStr HKLM "${UNINSTALL}" "InstallLocation" "$INSTDIR"
    WriteRegStr HKLM "${UNINSTALL}" "DisplayIcon" "$INSTDIR\tanist.exe"
    WriteRegStr HKLM "${UNINSTALL}" "UninstallString" `"$INSTDIR\uninstall.exe"`
    WriteRegStr HKLM "${UNINSTALL}" "QuietUninstallString" `"$INSTDIR\uninstall.exe" /S`
    WriteRegDWORD HKLM "${UNINSTALL}" "NoModify" 1
    WriteRegDWORD HKLM "${UNINSTALL}" "NoRepair" 1
    ${GetSize} "$INSTDIR" "/S=0K" $0 $1 $2
    WriteRegDWORD HKLM "${UNINSTALL}" "EstimatedSize" $0
    ${If} $NoStart != 1
        !insertmacro Run `"$INSTDIR\tanist.exe" service start`
        ${If} $0 != 0
            !insertmacro Fail 5 "Tanist is installed but doesn't start, see the Event Log (Application, source Tanist) and $INSTDIR\install.log: $1"
        ${EndIf}
    ${EndIf}
SectionEnd

Function un.onInit
    !insertmacro Prepare
    StrCpy $Log ""
    !insertmacro Switch "/REMOVEDATA" $DataAnswer
    !insertmacro Switch "/KEEPDATA" $0
    ${If} $DataAnswer == 0
    ${AndIf} $0 == 0
        MessageBox MB_YESNO|MB_ICONQUESTION|MB_DEFBUTTON2 "Delete this machine's configuration, key and data in $Data too? What only this machine holds is lost then." /SD IDNO IDNO keep
        StrCpy $DataAnswer 1
        keep:
    ${ElseIf} $0 == 1
        StrCpy $DataAnswer 0 ; keeping wins
    ${EndIf}
FunctionEnd

Section "Uninstall"
    ; Hands over first.
    !insertmacro Run `"$INSTDIR\tanist.exe" service uninstall`
    !insertmacro Run `"$SYSDIR\netsh.exe" advfirewall firewall delete rule name="Tanist peers"`
    !insertmacro Run `"$SYSDIR\netsh.exe" advfirewall firewall delete rule name="Tanist clients"`
    ClearErrors
    Delete "$INSTDIR\tanist.exe"
    ${If} ${Errors}
        !insertmacro Fail 3 "$INSTDIR\tanist.exe can't be removed: end the programs that use it, and run this again."
    ${EndIf}
    ${If} $DataAnswer == 1
        RMDir /r "$Data"
    ${EndIf}
    DeleteRegKey HKLM "${UNINSTALL}"
    ; Last: who waits for the end of a silent run waits for this.
    Delete "$INSTDIR\install.log"
    Delete "$INSTDIR\uninstall.exe"
    RMDir "$INSTDIR"
SectionEnd
